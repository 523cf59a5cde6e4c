"""What evaluators share: Frechet distances, image metrics, features and picture grids."""

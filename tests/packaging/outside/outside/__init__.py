"""Components for shala-bench from another package."""

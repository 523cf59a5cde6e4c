"""Records of runs: folders, identities, schemas and data frames."""

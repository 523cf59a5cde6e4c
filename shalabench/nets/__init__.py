"""Parts that methods share, so that capacity is equal across them."""

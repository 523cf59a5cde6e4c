"""Exchange with other code: its samples are scored here, and models from here are used there."""

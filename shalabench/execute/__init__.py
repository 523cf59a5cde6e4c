"""Training and evaluation of planned runs."""

"""Drawn data: cars, birds and house numbers."""

"""Evaluators: one file a family of metrics."""

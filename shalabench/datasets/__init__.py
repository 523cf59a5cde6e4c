"""Datasets: one file each, and the readers and recipes they share."""

"""Readers and recipes that several datasets share."""

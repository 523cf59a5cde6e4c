"""Procedural cars: their shapes, their styles, and how both are drawn."""

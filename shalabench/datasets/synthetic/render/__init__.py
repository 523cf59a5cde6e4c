"""Rendering of triangle meshes: an exact depth buffer, and light."""

"""Priors that are fitted to the latents of a trained method; one file each."""

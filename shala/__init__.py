"""ShaLa, the paper's method: multimodal shared latent generative modelling (AAAI 2026)."""

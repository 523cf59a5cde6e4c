"""ShaLa: multimodal shared latent generative modelling (Cui et al., AAAI 2026)."""

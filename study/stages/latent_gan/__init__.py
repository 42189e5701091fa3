"""Latent GANs without labels: the search for a WGAN's settings, and its rivals."""

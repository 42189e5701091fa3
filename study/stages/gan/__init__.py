"""GANs in the latent space: the search without labels, and the WGAN with labels. Both share a trial."""

"""The autoencoder: which latent size and architecture?"""

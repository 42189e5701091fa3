"""Torch modules and their maths, nothing else: autoencoder, latent GAN, classifiers."""

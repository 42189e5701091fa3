"""Translation: which GAN fits images that are paired, loosely paired, or not paired at all."""

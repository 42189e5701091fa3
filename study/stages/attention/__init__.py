"""Self-attention as a convolution and as a fully connected layer: exactly, and learned."""

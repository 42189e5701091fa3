"""Transfer: classifiers from a few labels on the trained encoder."""

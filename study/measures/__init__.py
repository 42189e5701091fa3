"""Measures: of generated images by the judges, of latents, of translations; statistics."""

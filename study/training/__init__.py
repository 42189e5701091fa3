"""Loops and the models' trainings; they report through a callback."""

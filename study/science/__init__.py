"""Trainings and measures. They import models and data only, and report through a callback: no tracker, no search."""

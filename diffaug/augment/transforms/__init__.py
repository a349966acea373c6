"""Transforms that bring images of a pool into a training loop."""

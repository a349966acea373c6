"""A pool becomes what a training loop uses. Nothing here runs the model."""

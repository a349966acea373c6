"""Makes a pool usable in training loops. Nothing here runs the model."""

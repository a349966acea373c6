"""What to train, and for how long."""

"""People look through a pool."""

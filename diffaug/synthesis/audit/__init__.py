"""Quality and memorization of a pool."""

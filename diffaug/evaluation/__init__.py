"""A pool becomes a verdict: classifiers trained with and without it, compared on real test images."""

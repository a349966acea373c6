"""The page of `diffaug review`."""

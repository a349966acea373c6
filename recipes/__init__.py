"""Ready configurations in YAML, installed as `diffaug.recipes`."""

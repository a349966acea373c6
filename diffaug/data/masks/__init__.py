"""Masks of images: where in each image the object of its class is."""

"""Watches a dataset make an item, to find what it does to its images."""

"""Filters that reject synthetic images."""

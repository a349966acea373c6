"""Readers of the file formats: each gives the samples of one page."""

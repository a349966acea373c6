"""The trained generator and its files."""

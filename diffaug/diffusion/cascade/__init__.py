"""A small generator and a network that enlarges its images."""

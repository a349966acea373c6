"""What rejects synthetic images."""

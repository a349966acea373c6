"""The settings, and how a setting gets its value."""

"""From the local journal to trackers."""

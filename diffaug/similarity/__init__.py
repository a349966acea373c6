"""When two images show the same: one distance, one table of thresholds."""

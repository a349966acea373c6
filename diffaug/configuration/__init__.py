"""Settings and the sources they are read from."""

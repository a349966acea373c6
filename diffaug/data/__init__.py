"""Images on disk become a catalog: what is there, what is usable, which row may be used for what."""

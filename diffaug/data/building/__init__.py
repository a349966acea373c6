"""A data folder becomes a catalog, and is compared with it later."""

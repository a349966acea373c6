"""The ways to a generator: one module per route."""

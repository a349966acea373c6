"""The stage that evaluates the pool and writes the report."""

"""The stage that fills the pool."""

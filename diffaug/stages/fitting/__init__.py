"""The stage that trains the generator."""

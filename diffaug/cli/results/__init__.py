"""Commands for what a finished stage left."""

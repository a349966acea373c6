"""A catalog becomes a generator: the forward process, the network that reverses it, and its training."""

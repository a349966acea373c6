"""The network that predicts the mean and the variance."""

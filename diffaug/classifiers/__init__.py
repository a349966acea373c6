"""What learns labels: networks, encoders, features, training recipes."""

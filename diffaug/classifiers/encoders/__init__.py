"""Encoders turn images into feature vectors: trained on the user's images, packaged, of a library, or the user's."""

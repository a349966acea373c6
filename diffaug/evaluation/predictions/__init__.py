"""Predictions that other training code made."""

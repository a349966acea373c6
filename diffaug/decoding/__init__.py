"""Turns a file into upright 8-bit pixels, or says why that is impossible."""

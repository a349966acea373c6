"""The forward process: continuous noise levels and the discrete view."""

"""Metrics, intervals and corrections for multiple comparisons."""

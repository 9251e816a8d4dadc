"""Measures the service against the best that the same model does without it: `make bench`."""

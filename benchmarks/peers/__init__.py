"""The peers beside our own stack, in one run."""

"""One file a face."""

"""The demo: `make demo`. Real sentences and photographs through the whole service, and what came back."""

"""What API and workers agree on: types, names, messages, scripts. Imports neither of them, nor torch, nor FastAPI."""

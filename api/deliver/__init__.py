"""Webhooks on their way: a loop in each API process, or in `python -m api deliver`."""

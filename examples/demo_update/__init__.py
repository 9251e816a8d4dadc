"""The demo of a hot update, `make demo-update`: a second version under load gets a tenth of the calls, then all."""

"""Lottery tickets: pruning and the QRT, measured on the same data."""

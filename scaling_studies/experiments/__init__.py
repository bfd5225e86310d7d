"""Experiments, each a function from a configuration to a folder of results."""

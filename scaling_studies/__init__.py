"""Runs, reports and the command line: what knows machines."""

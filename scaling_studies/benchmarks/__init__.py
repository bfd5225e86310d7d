"""Timings, apart from the tests: each module is a script with a `main()`."""

"""Mixtures of experts whose hidden nodes come from the Quantum Ridgelet Transform, and their mass."""

"""Pruned mixtures of experts: what each criterion keeps, what pruning saves, and the theory beside it."""

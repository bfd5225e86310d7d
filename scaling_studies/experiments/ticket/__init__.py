"""The main job: tickets drawn from a user's data, beside every other way to get a network of that size."""

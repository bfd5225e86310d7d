"""Runtime and memory of every kind of state, against dimension, modulus and bond."""

"""One contraction: its time, memory and accuracy, by network, backend, precision and ranks."""

"""States of every kind from D = 100 to 10,000: how time and memory grow."""

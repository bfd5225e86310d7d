"""What studies bear: kills at random moments, a hundred thousand points, many writers."""

"""What a ticket is worth: risk and accuracy of shallow networks whose hidden nodes one sampler draws."""

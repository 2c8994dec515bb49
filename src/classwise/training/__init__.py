"""Training: the loop, its state, its recipes and its log."""

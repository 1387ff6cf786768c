"""training/picking."""

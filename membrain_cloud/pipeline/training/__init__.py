"""pipeline/training."""

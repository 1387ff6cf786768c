"""training/augmentation."""

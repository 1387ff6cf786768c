"""training/segmentation."""

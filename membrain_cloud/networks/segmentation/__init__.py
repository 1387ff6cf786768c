"""networks/segmentation."""

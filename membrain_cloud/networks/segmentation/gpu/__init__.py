"""networks/segmentation/gpu."""

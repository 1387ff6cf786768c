"""networks/segmentation/cpu."""

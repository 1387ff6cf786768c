"""networks/segmentation/architecture."""

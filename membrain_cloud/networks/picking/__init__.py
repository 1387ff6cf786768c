"""networks/picking."""

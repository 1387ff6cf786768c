"""Losses, augmentation, patches, scores and the training loop."""

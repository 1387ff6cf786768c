"""Losses of segmentation training."""

from __future__ import annotations

import torch
from torch.nn import functional




def dice_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice (after the sigmoid) plus binary cross-entropy, 1:1, voxels of label 2 left out.

    logits : (B, 1, Z, Y, X).  target : the same shape; 0 background, 1 membrane, 2 ignore.
    Source: MemBrain-seg's training loss (Lamm et al. 2024).
    """
    known = (target != IGNORE).to(logits.dtype)
    truth = (target == 1).to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    chance = torch.sigmoid(logits) * known
    truth = truth * known
    axes = (1, 2, 3, 4)
    overlap, total = (chance * truth).sum(axes), chance.sum(axes) + truth.sum(axes)
    # One voxel of smoothing: windows without membrane are no reason to divide by zero.
    return entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()

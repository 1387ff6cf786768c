"""Losses of segmentation training: binary cross-entropy, Dice and soft Surface-Dice, with voxels that are ignored.

Tensors are (B, 1, Z, Y, X); targets hold 0 background, 1 membrane, 2 ignore. The logits of ignored voxels get no
gradient from any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from membrain_cloud.training.labels import IGNORE, MEMBRANE

if TYPE_CHECKING:
    from collections.abc import Sequence

_AXES = (1, 2, 3, 4)


@dataclass(frozen=True)
class SegmentationLoss:
    """What is minimised: (cross-entropy + Dice + surface_dice * Surface-Dice) / (1 + surface_dice), summed over heads.

    surface_dice : weight of the Surface-Dice loss; 0 leaves it out.
    smooth : added to both sides of Dice's fraction; MemBrain-seg has 1e-5.
    heads : weights of the outputs at full, half, quarter ... resolution; one number: no deep supervision.
    """

    surface_dice: float = 0.0
    smooth: float = 1.0
    heads: tuple[float, ...] = (1.0,)

    def __call__(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Outputs : logits of each head, each half as long as the one before.  target : for the first."""
        total = torch.zeros((), device=target.device)
        for head, (weight, logits) in enumerate(zip(self.heads, outputs, strict=True)):
            step = 2**head
            total = total + weight * self._of_one(logits, target[..., ::step, ::step, ::step])
        return total

    def _of_one(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = dice_bce_loss(logits, target, smooth=self.smooth)
        if self.surface_dice:
            loss = (loss + self.surface_dice * surface_dice_loss(logits, target)) / (1 + self.surface_dice)
        return loss


def dice_bce_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Dice (after the sigmoid) plus binary cross-entropy, 1:1.

    smooth : in voxels: windows without membrane are no reason to divide by zero.
    Source: MemBrain-seg's training loss (Lamm et al. 2024).
    """
    known = (target != IGNORE).to(logits.dtype)
    truth = (target == MEMBRANE).to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    chance = torch.sigmoid(logits) * known
    overlap, total = (chance * truth).sum(_AXES), chance.sum(_AXES) + truth.sum(_AXES)
    return entropy + (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def mirror_loss(logits: Tensor, mirrored: Tensor, target: Tensor) -> Tensor:
    """How far the chances of a patch and of its mirror image are apart: a Dice distance, 0 where they agree.

    mirrored : logits of the mirror image, mirrored back.  target : (B, 1, Z, Y, X); what it ignores does not count.
    Averages over mirrors then gain little, and few of them give what all would (fast mode looks at one or two).
    """
    known = (target != IGNORE).to(logits.dtype)
    one, other = torch.sigmoid(logits) * known, torch.sigmoid(mirrored) * known
    apart, both = (one - other).square().sum(_AXES), (one.square() + other.square()).sum(_AXES)
    return (apart / (both + 1)).mean()


def teacher_loss(logits: Tensor, told: Tensor) -> Tensor:
    """Cross-entropy with another network's chances, everywhere: a teacher has an answer where labels say "ignore".

    told : its logits.  Source: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.
    """
    return functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(told))


def surface_dice_loss(logits: Tensor, target: Tensor, *, iterations: int = 5, smooth: float = 3.0) -> Tensor:
    """1 - soft Surface-Dice: how much of each one's skeleton lies inside the other.

    Precision is the share of the prediction's soft skeleton inside the truth, recall the share of the truth's inside
    the prediction; skeletons do not count where the target is ignored. Predictions there are looked at only to
    skeletonise what borders on them.

    iterations : erosions, half the thickness (voxels) of what is still reduced to its middle.
    smooth : added to both sides of both fractions, in voxels.
    Source: MemBrain-seg's Surface-Dice loss (Lamm et al. 2024), after clDice (Shit et al. 2021).
    """
    known = target != IGNORE
    chance = torch.sigmoid(logits)
    # Where nothing is known nothing is learnt: not even by way of the skeleton of a neighbour.
    chance = torch.where(known, chance, chance.detach())
    truth = (target == MEMBRANE).to(logits.dtype)
    of_prediction = soft_skeleton(chance, iterations) * known
    with torch.no_grad():
        of_truth = soft_skeleton(_blurred(truth) * 1.5, iterations) * known
    precision = ((of_prediction * truth).sum(_AXES) + smooth) / (of_prediction.sum(_AXES) + smooth)
    recall = ((of_truth * chance).sum(_AXES) + smooth) / (of_truth.sum(_AXES) + smooth)
    return (1 - 2 * precision * recall / (precision + recall)).mean()


def soft_skeleton(mask: Tensor, iterations: int) -> Tensor:
    """What an opening takes away from a soft mask and from each of its erosions, joined: 1 on the middle of sheets.

    mask : (B, 1, Z, Y, X), 0 to 1.  Erosion and dilation take the least and the greatest of 3x3x3 voxels.
    """
    skeleton: Tensor | None = None
    for _ in range(iterations + 1):
        eroded = -_greatest(-mask)
        thin = torch.relu(mask - _greatest(eroded))
        skeleton = thin if skeleton is None else skeleton + torch.relu(thin - skeleton * thin)
        mask = eroded
    assert skeleton is not None
    return skeleton


def _greatest(values: Tensor) -> Tensor:
    """Of 3x3x3 voxels, one axis after the other: the same, with a third of the comparisons."""
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        padding = tuple(k // 2 for k in kernel)
        values = functional.max_pool3d(values, kernel, stride=1, padding=padding)
    return values


def _blurred(values: Tensor, sigma: float = 2.0, size: int = 15) -> Tensor:
    """A Gaussian of `sigma` voxels, cut off at `size` // 2; a binary mask's soft skeleton would have holes."""
    at = torch.arange(size, dtype=values.dtype, device=values.device) - size // 2
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, padding = [1] * 5, [0] * 3
        shape[axis + 2], padding[axis] = size, size // 2
        values = functional.conv3d(values, kernel.reshape(shape), padding=padding)
    return values

"""Losses of segmentation training: cross-entropy, Dice and soft Surface-Dice, with voxels that are ignored.

Tensors have shape (B, 1, Z, Y, X). Targets hold 0 background, 1 membrane, 2 ignore. The logits of ignored voxels get no
gradient from any of these losses, except from `teacher_loss`.
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
    """Weighted sum of cross-entropy, Dice and Surface-Dice over the network's output heads.

    The loss of one head is (cross-entropy + Dice + surface_dice * Surface-Dice) / (1 + surface_dice).

    Attributes
    ----------
    surface_dice : float
        Weight of the Surface-Dice loss. Default 0: left out.
    smooth : float
        Added to numerator and denominator of Dice, in voxels. MemBrain-seg uses 1e-5.
    heads : tuple of float
        Weights of the outputs at full, half, quarter ... resolution. A single weight means no deep supervision.
    """

    surface_dice: float = 0.0
    smooth: float = 1.0
    heads: tuple[float, ...] = (1.0,)

    def __call__(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the loss of all heads.

        Parameters
        ----------
        outputs : sequence of Tensor, float
            Logits of each head, from full resolution down; each has half the edge length of the one before.
        target : Tensor of shape (B, 1, Z, Y, X), integer
            Labels at full resolution.

        Returns
        -------
        loss : Tensor
            A scalar.
        """
        total = torch.zeros((), device=target.device)
        for head, (weight, logits) in enumerate(zip(self.heads, outputs, strict=True)):
            step = 2**head
            total = total + weight * self._head_loss(logits, target[..., ::step, ::step, ::step])
        return total

    def _head_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = dice_bce_loss(logits, target, smooth=self.smooth)
        if self.surface_dice:
            loss = (loss + self.surface_dice * surface_dice_loss(logits, target)) / (1 + self.surface_dice)
        return loss


def dice_bce_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Compute the Dice loss (after the sigmoid) plus binary cross-entropy, with equal weights.

    Parameters
    ----------
    logits : Tensor of shape (B, 1, Z, Y, X), float
        Predictions.
    target : Tensor of shape (B, 1, Z, Y, X), integer
        Labels.
    smooth : float
        Added to numerator and denominator of Dice, in voxels: windows without membrane would divide by zero.

    Returns
    -------
    loss : Tensor
        A scalar.

    References
    ----------
    Lamm et al., "MemBrain v2: an end-to-end tool for the analysis of membranes in cryo-electron tomography", bioRxiv
    2024: the training loss of MemBrain-seg.
    """
    valid = (target != IGNORE).to(logits.dtype)
    truth = (target == MEMBRANE).to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * valid).sum() / valid.sum().clamp(min=1)
    probability = torch.sigmoid(logits) * valid
    overlap, total = (probability * truth).sum(_AXES), probability.sum(_AXES) + truth.sum(_AXES)
    return entropy + (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def mirror_loss(logits: Tensor, mirrored: Tensor, target: Tensor) -> Tensor:
    """Compute the Dice distance between the predictions for a patch and for its mirror image.

    A network with a small distance gains little from test-time augmentation by mirrors, so that fewer mirrors suffice.

    Parameters
    ----------
    logits : Tensor of shape (B, 1, Z, Y, X), float
        Predictions for the patches.
    mirrored : Tensor of shape (B, 1, Z, Y, X), float
        Predictions for the mirror images, mirrored back.
    target : Tensor of shape (B, 1, Z, Y, X), integer
        Labels; ignored voxels do not count.

    Returns
    -------
    loss : Tensor
        A scalar, 0 if both predictions are equal.
    """
    valid = (target != IGNORE).to(logits.dtype)
    one, other = torch.sigmoid(logits) * valid, torch.sigmoid(mirrored) * valid
    difference, total = (one - other).square().sum(_AXES), (one.square() + other.square()).sum(_AXES)
    return (difference / (total + 1)).mean()


def teacher_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the cross-entropy with the probabilities of a teacher network, over all voxels.

    Voxels that the labels ignore count as well, because the teacher has a prediction there.

    Parameters
    ----------
    logits, teacher_logits : Tensor of shape (B, 1, Z, Y, X), float
        Predictions of the network and of the teacher.

    Returns
    -------
    loss : Tensor
        A scalar.

    References
    ----------
    Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.
    """
    return functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher_logits))


def surface_dice_loss(logits: Tensor, target: Tensor, *, iterations: int = 5, smooth: float = 3.0) -> Tensor:
    """Compute 1 - soft Surface-Dice: the overlap of each skeleton with the other mask.

    Precision is the share of the prediction's soft skeleton that lies inside the truth; recall is the share of the
    truth's skeleton inside the prediction. Skeletons do not count in ignored voxels. Predictions in ignored voxels only
    affect how their surroundings are skeletonised.

    Parameters
    ----------
    logits : Tensor of shape (B, 1, Z, Y, X), float
        Predictions.
    target : Tensor of shape (B, 1, Z, Y, X), integer
        Labels.
    iterations : int
        Number of erosions: half the thickness, in voxels, of the thickest sheet that is reduced to its middle.
    smooth : float
        Added to numerator and denominator of both shares, in voxels.

    Returns
    -------
    loss : Tensor
        A scalar.

    References
    ----------
    Lamm et al., bioRxiv 2024 (MemBrain-seg's Surface-Dice loss), after Shit et al., "clDice", CVPR 2021.
    """
    valid = target != IGNORE
    probability = torch.sigmoid(logits)
    # No gradient in ignored voxels, not even through the skeleton of a neighbour.
    probability = torch.where(valid, probability, probability.detach())
    truth = (target == MEMBRANE).to(logits.dtype)
    predicted_skeleton = soft_skeleton(probability, iterations) * valid
    with torch.no_grad():
        true_skeleton = soft_skeleton(_blurred(truth) * 1.5, iterations) * valid
    precision = ((predicted_skeleton * truth).sum(_AXES) + smooth) / (predicted_skeleton.sum(_AXES) + smooth)
    recall = ((true_skeleton * probability).sum(_AXES) + smooth) / (true_skeleton.sum(_AXES) + smooth)
    return (1 - 2 * precision * recall / (precision + recall)).mean()


def soft_skeleton(mask: Tensor, iterations: int) -> Tensor:
    """Compute the soft skeleton of a mask: the union of opening residues over its erosions.

    Parameters
    ----------
    mask : Tensor of shape (B, 1, Z, Y, X), float
        Values from 0 to 1. Erosion and dilation take the minimum and the maximum of 3 x 3 x 3 voxels.
    iterations : int
        Number of erosions.

    Returns
    -------
    skeleton : Tensor of shape (B, 1, Z, Y, X), float
        1 in the middle of sheets.

    References
    ----------
    Shit et al., "clDice", CVPR 2021, algorithm 1.
    """
    skeleton: Tensor | None = None
    for _ in range(iterations + 1):
        eroded = -_dilate(-mask)
        residue = torch.relu(mask - _dilate(eroded))
        skeleton = residue if skeleton is None else skeleton + torch.relu(residue - skeleton * residue)
        mask = eroded
    assert skeleton is not None
    return skeleton


def _dilate(values: Tensor) -> Tensor:
    """Return the maximum over 3 x 3 x 3 voxels, one axis after the other: a third of the comparisons of a cube."""
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        padding = tuple(k // 2 for k in kernel)
        values = functional.max_pool3d(values, kernel, stride=1, padding=padding)
    return values


def _blurred(values: Tensor, sigma: float = 2.0, size: int = 15) -> Tensor:
    """Convolve with a Gaussian of `sigma` voxels, cut off at `size` // 2: skeletons of binary masks have holes."""
    at = torch.arange(size, dtype=values.dtype, device=values.device) - size // 2
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, padding = [1] * 5, [0] * 3
        shape[axis + 2], padding[axis] = size, size // 2
        values = functional.conv3d(values, kernel.reshape(shape), padding=padding)
    return values

"""Losses against cases worked by hand, finite differences, and ignored voxels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from membrain_cloud.training.segmentation.losses import (
    SegmentationLoss,
    _blurred,
    dice_bce_loss,
    mirror_loss,
    soft_skeleton,
    surface_dice_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "dice and cross-entropy": dice_bce_loss,
    "surface": lambda logits, target: surface_dice_loss(logits, target, iterations=2, smooth=1.0),
    "mirror": lambda logits, target: mirror_loss(logits, logits.flip(2) * 0.5 + 0.1, target),
    "all": lambda logits, target: SegmentationLoss(surface_dice=2.0, smooth=1e-5)([logits], target),
}


def volume(*shape: int, fill: float = 0.0) -> torch.Tensor:
    return torch.full((1, 1, *shape), fill, dtype=torch.float64)


def test_dice_and_cross_entropy_of_four_voxels() -> None:
    """Probabilities 1/2, 3/4, 1/4, 1/2 against 1, 1, 0 and an ignored voxel."""
    logits = torch.tensor([0.0, math.log(3), -math.log(3), 0.0], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    target = torch.tensor([1, 1, 0, 2]).reshape(1, 1, 1, 1, 4)
    entropy = -(math.log(0.5) + math.log(0.75) + math.log(0.75)) / 3
    dice = (2 * (0.5 + 0.75) + 1e-5) / (0.5 + 0.75 + 0.25 + 2 + 1e-5)
    assert float(dice_bce_loss(logits, target, smooth=1e-5)) == pytest.approx(entropy + 1 - dice, rel=1e-12)


def test_the_soft_skeleton_of_a_sheet_is_its_middle() -> None:
    """Five voxels thick: two erosions leave the middle plane, which the next opening takes away."""
    sheet = volume(15, 15, 15)
    sheet[:, :, 5:10] = 1
    skeleton = soft_skeleton(sheet, 3)
    middle = volume(15, 15, 15)
    middle[:, :, 7] = 1
    inner = (slice(None), slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(skeleton[inner], middle[inner])


def test_the_soft_skeleton_is_a_probabilistic_union() -> None:
    """A voxel with two residues s and t counts s + t - s*t, the probability of either of two events."""
    line = volume(1, 1, 5)
    line[..., 2], line[..., 1], line[..., 3] = 1.0, 0.5, 0.5
    # Round 1: the opening (least, then greatest, of three; outside counts as nothing more than absent) leaves
    # 0.5 -> eroded 0, 0, .5, 0, 0 -> dilated 0, .5, .5, .5, 0: thin 0.5 in the middle. Round 2: of 0, 0, .5, 0, 0 the
    # opening is nothing: thin 0.5 there. Joined: 0.5 + 0.5 - 0.25.
    assert soft_skeleton(line, 1).flatten().tolist() == pytest.approx([0, 0, 0.75, 0, 0])


def test_surface_dice_of_a_sheet_found_and_of_one_missed() -> None:
    target = torch.zeros(1, 1, 24, 24, 24, dtype=torch.uint8)
    target[:, :, 10:14] = 1
    sure = (target.double() * 2 - 1) * 30
    assert float(surface_dice_loss(sure, target)) < 0.02
    shifted = torch.roll(sure, 8, dims=2)
    assert float(surface_dice_loss(shifted, target)) > 0.9
    # Thinner, but in the right place: Dice suffers (2*2/(2+4) = 2/3), the surface does not.
    thin = torch.full_like(sure, -30.0)
    thin[:, :, 11:13] = 30.0
    assert float(surface_dice_loss(thin, target)) < 0.15 < float(dice_bce_loss(thin, target))


def test_surface_dice_by_its_formula() -> None:
    """A prediction of one plane with probability 0.8 through a membrane three planes thick."""
    target = torch.zeros(1, 1, 9, 5, 5, dtype=torch.uint8)
    target[:, :, 3:6] = 1
    logits = volume(9, 5, 5, fill=-60.0)
    logits[:, :, 4] = math.log(0.8 / 0.2)
    # The prediction's skeleton is 0.8 on its plane, all of it in the truth: precision (20 + 3) / (20 + 3) = 1.
    # Recall: the truth's skeleton weighs on the planes by s; 0.8 of it is found on plane 4 alone.
    blurred = torch.zeros(1, 1, 9, 5, 5, dtype=torch.float64)
    blurred += soft_skeleton(_blurred((target == 1).double()) * 1.5, 5)
    recall = (0.8 * float(blurred[:, :, 4].sum()) + 3) / (float(blurred.sum()) + 3)
    assert float(surface_dice_loss(logits, target)) == pytest.approx(1 - 2 * recall / (1 + recall), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name: str) -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 1, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, logits.shape)
    # Voxels next to ignored ones as well; ignored ones have their own test.
    LOSSES[name](logits, target).backward()
    assert logits.grad is not None
    known = (target != 2).nonzero()
    for index in known[torch.randperm(len(known))[:20]]:
        step = torch.zeros_like(logits)
        step[tuple(index)] = 1e-6
        with torch.no_grad():
            slope = (LOSSES[name](logits + step, target) - LOSSES[name](logits - step, target)) / 2e-6
        assert float(logits.grad[tuple(index)]) == pytest.approx(float(slope), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_voxels_have_no_gradient(name: str) -> None:
    torch.manual_seed(4)
    logits = torch.randn(1, 1, 12, 12, 12, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 2, logits.shape)
    target[..., 6:] = 2
    LOSSES[name](logits, target).backward()
    assert logits.grad is not None
    assert (logits.grad[target == 2] == 0).all()
    assert (logits.grad[target != 2] != 0).any()


def test_predictions_deep_inside_the_ignored_part_change_no_loss() -> None:
    torch.manual_seed(5)
    target = torch.randint(0, 2, (1, 1, 8, 8, 40))
    target[..., 10:] = 2
    logits = torch.randn(1, 1, 8, 8, 40)
    other = logits.clone()
    other[..., 30:] = 5.0
    for loss in LOSSES.values():
        assert float(loss(logits, target)) == float(loss(other, target))
    assert float(dice_bce_loss(logits, torch.full_like(target, 2))) == 0


def test_coarse_heads_are_compared_with_every_second_voxel() -> None:
    torch.manual_seed(6)
    target = torch.randint(0, 3, (1, 1, 8, 8, 8))
    outputs = [torch.randn(1, 1, n, n, n) for n in (8, 4, 2)]
    parts = [
        dice_bce_loss(out, target[..., ::step, ::step, ::step]) for out, step in zip(outputs, (1, 2, 4), strict=True)
    ]
    total = SegmentationLoss(heads=(1.0, 0.5, 0.25))(outputs, target)
    assert float(total) == pytest.approx(float(parts[0] + 0.5 * parts[1] + 0.25 * parts[2]), rel=1e-6)


def test_the_mirror_loss_of_four_voxels() -> None:
    """Probabilities 1/2, 3/4 and 1/2, 1/4; an ignored voxel with a large distance; one where both agree."""
    three = math.log(3)
    one = torch.tensor([0.0, three, 9.0, three], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    other = torch.tensor([0.0, -three, -9.0, three], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    target = torch.tensor([1, 1, 2, 0]).reshape(1, 1, 1, 1, 4)
    both = 2 * 0.5**2 + 0.75**2 + 0.25**2 + 2 * 0.75**2
    assert float(mirror_loss(one, other, target)) == pytest.approx(0.5**2 / (both + 1), rel=1e-12)
    assert float(mirror_loss(one, one, target)) == 0

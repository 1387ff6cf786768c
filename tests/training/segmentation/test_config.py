"""Settings of a segmentation training: learning rates and refusals."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch

from membrain_cloud.errors import UsageError
from membrain_cloud.training.segmentation.config import MEMBRAIN_SEG, SegmentationTraining
from membrain_cloud.training.segmentation.trainer import trains_in_bfloat16

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip


def test_learning_rates_follow_the_schedules() -> None:
    poly = replace(MEMBRAIN_SEG, steps=1000, epoch_steps=10)
    assert poly.rate(0) == poly.rate(9) == 1e-2
    assert poly.rate(500) == pytest.approx(1e-2 * 0.5**0.9)
    plateau = replace(TINY, steps=1000, learning_rate=1.0)
    assert [plateau.rate(s) for s in (99, 500, 875)] == pytest.approx([0.5, 1.0, 0.5])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="patches of 40 voxels do not fit a network of 5 levels"):
        SegmentationTraining(window=40)
    with pytest.raises(UsageError, match="cannot be supervised at 3 resolutions"):
        replace(TINY, heads=(1.0, 0.5, 0.25))
    with pytest.raises(UsageError, match="no optimizer"):
        replace(TINY, optimizer="adam")
    with pytest.raises(UsageError, match="the training setting surface_dice is inf: out of range -> give a finite"):
        replace(TINY, surface_dice=math.inf)
    with pytest.raises(UsageError, match="no precision"):
        trains_in_bfloat16(torch.device("cpu"), "float16")


def test_networks_that_cannot_be_symmetric_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(4, 8, 8\) .* cannot be symmetric"):
        replace(TINY, mirror_symmetric=True)
    with pytest.raises(UsageError, match="mirror loss of 1 cannot be symmetric"):
        replace(TINY, channels=(8, 8, 8), mirror_symmetric=True, mirror_loss=1.0)


def test_the_digest_covers_all_settings_but_speed() -> None:
    settings = TINY.digest_settings()
    assert set(asdict(TINY)) - set(settings) == {"threads", "workers"}
    assert replace(TINY, threads=8, workers=4).digest_settings() == settings
    assert replace(TINY, seed=2).digest_settings() != settings

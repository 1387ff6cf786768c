"""Batches of patches: the same ones with workers, and from any step on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.training.augmentation.policy import PRESETS
from membrain_cloud.training.segmentation.batches import batches, training_batches
from membrain_cloud.training.segmentation.config import SegmentationTraining
from membrain_cloud.training.segmentation.labelled_patches import (
    LabelledPatch,
    PlanewiseVolume,
    VolumePatches,
    prepare_volume,
)

if TYPE_CHECKING:
    from pathlib import Path

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip


class Sheets:
    """Patches of a bright sheet in noise; a source without files."""

    volumes = 5
    identity = "sheets"

    def patch(self, seed: int, n: int) -> LabelledPatch:
        rng = np.random.default_rng((seed, n))
        image = rng.standard_normal((16, 16, 16)).astype(np.float32)
        label = np.zeros((16, 16, 16), np.uint8)
        where = int(rng.integers(2, 12))
        label[where : where + 3] = 1
        label[..., :2] = 2
        return LabelledPatch(image + 2.0 * (label == 1).astype(np.float32), label)


def test_workers_make_the_patches_that_this_process_would(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal((20, 20, 20)).astype(np.float32)
    label = (noise > 1).astype(np.uint8)
    planes = PlanewiseVolume((20, 20, 20), lambda a, b: noise[a:b], lambda a, b: label[a:b], None)
    volume = prepare_volume(tmp_path, "v", "1", lambda: planes, margin=0)
    source = VolumePatches((volume,), 16, PRESETS["membrain-seg"])
    alone, helped = (
        [image for image, _ in batches(source, replace(TINY, workers=workers), 5, 0, 4)] for workers in (0, 2)
    )
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("views", [1, 3])
def test_patches_are_reused_and_the_same_ones_after_a_stop(views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membrain_cloud.training.segmentation.batches._KEPT_VOXELS", 4 * 16**3)
    settings = replace(TINY, steps=29, views=views)
    shown = [float(image[0, 0, 0, 0, 0]) for image, _ in training_batches(Sheets(), settings, 0)]
    made = [float(image[0, 0, 0, 0, 0]) for image, _ in batches(Sheets(), settings, settings.seed, 0, 29)]
    assert len(shown) == 29
    assert shown[::views] == made[: -(-29 // views)]
    for step, again in enumerate(shown):
        newest = step // views
        assert made.index(again) in range(max(0, newest - 3), newest + 1)  # of the four in the buffer
    for stop in range(30):
        assert [float(image[0, 0, 0, 0, 0]) for image, _ in training_batches(Sheets(), settings, stop)] == shown[stop:]

"""Simulated specimens as a source of patches: the pool, the patches, and the split for validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.simulation.phantom import PhantomSettings, make_specimen
from membrain_cloud.training.augmentation.policy import PRESETS
from membrain_cloud.training.segmentation.config import SegmentationTraining
from membrain_cloud.training.segmentation.simulated_patches import (
    Specimen,
    draw_patch,
    load_specimen,
    make_pool,
    simulated_sources,
)

if TYPE_CHECKING:
    from pathlib import Path

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip


def test_simulated_patches_are_normalised_and_reproducible() -> None:
    specimen = make_specimen(2, PhantomSettings(shape=(48, 48, 48), membranes=2))
    stored = Specimen(specimen.density.astype(np.float16), specimen.labels, 10.0)
    first, again, other = (draw_patch(stored, 24, PRESETS["simulated"], np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == first.label.shape == (24, 24, 24)
    assert first.image.dtype == np.float32
    assert abs(first.image.mean()) < 1e-3
    assert first.image.std() == pytest.approx(1, abs=1e-3)


def test_a_pool_is_made_once(tmp_path: Path) -> None:
    paths = make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None)
    stamp = paths[0].stat().st_mtime_ns
    assert make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None) == paths
    assert paths[0].stat().st_mtime_ns == stamp
    density, label, spacing = load_specimen(paths[0])
    assert density.shape == label.shape == (40, 40, 40)
    assert 8 <= spacing <= 14


def test_coarse_specimens_are_drawn_more_often(tmp_path: Path) -> None:
    settings = replace(TINY, specimens=9, specimen_edge=40, validation_specimens=1, seed=3)
    plain, held_back = simulated_sources(tmp_path, settings, lambda *_: None)
    often, same = simulated_sources(tmp_path, replace(settings, coarse=3), lambda *_: None)
    counts = Counter(often.paths)
    spacings = {path: load_specimen(path)[2] for path in plain.paths}
    assert held_back.paths == same.paths
    assert counts == {path: 3 if spacing >= 11.0 else 1 for path, spacing in spacings.items()}
    assert set(counts.values()) == {1, 3}
    assert often.identity != plain.identity

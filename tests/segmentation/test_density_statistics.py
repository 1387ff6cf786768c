"""Statistics of tomograms with voxels that are no measurement."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.segmentation.density_statistics import Statistics, density_statistics

CLEAN = np.random.default_rng(0).normal(100.0, 10.0, (40, 50, 60)).astype(np.float32)


def of(volume: np.ndarray) -> Statistics:
    return density_statistics(lambda: iter(np.array_split(volume, 5)))


def changed(**values: object) -> np.ndarray:
    volume = CLEAN.copy()
    for name, value in values.items():
        if name == "hot":
            volume[3, 4, 5] = value
        elif name == "pad":
            volume[:, :12] = value
        elif name == "saturated":
            volume = np.minimum(volume, np.float32(value))  # type: ignore[call-overload]
    return volume


@pytest.mark.parametrize("value", [1e30, -1e30, 1e38, 1e6])
def test_one_voxel_does_not_decide(value: float) -> None:
    found = of(changed(hot=value))
    assert found.mean == pytest.approx(CLEAN.mean(dtype=float), abs=0.01)
    assert found.std == pytest.approx(CLEAN.std(dtype=float), rel=1e-3)
    assert "1 of 120000 voxels are outliers" in found.notes[0]
    assert f"{CLEAN.std():.3g}"[:2] in found.notes[0]


@pytest.mark.parametrize("value", [0.0, 1e5, -32768.0])
def test_a_padded_border_is_left_out(value: float) -> None:
    found = of(changed(pad=value))
    assert found.mean == pytest.approx(100.0, abs=0.2)
    assert found.std == pytest.approx(10.0, rel=0.02)
    assert "24.0 % of the voxels have the one value" in found.notes[0]


def test_a_border_of_the_mean_and_saturation_are_left_out_too() -> None:
    for volume in (changed(pad=100.0), changed(saturated=100.0)):
        found = of(volume)
        assert "the one value 100" in found.notes[0]
        kept = volume[volume != 100.0]
        assert found.std == pytest.approx(kept.std(dtype=float), rel=1e-6)


@pytest.mark.parametrize(
    "volume",
    [
        CLEAN,
        changed(hot=150.0),
        changed(hot=400.0),
        np.round(CLEAN / 10).astype(np.int8),
        (CLEAN > 100).astype(np.uint8),
        np.round(np.random.default_rng(1).normal(0, 0.8, (30, 30, 30))).astype(np.int8),
    ],
)
def test_other_tomograms_keep_their_statistics_to_the_last_bit(volume: np.ndarray) -> None:
    found = of(volume)
    assert (found.mean, found.std) == pytest.approx((volume.mean(dtype=float), volume.std(dtype=float)), rel=1e-9)
    if volume.dtype.kind != "f" or volume.min() > 0:
        assert found.notes == ()


def test_bad_tomograms_are_refused() -> None:
    for volume, cause in (
        (np.zeros((4, 4, 4), np.float32), "every voxel"),
        (np.full((4, 4, 4), 7, np.int16), "every voxel"),
        (changed(hot=np.nan), "1 of 24000 voxels in one part are NaN"),
        (np.zeros((0, 4, 4), np.float32), "empty"),
    ):
        with pytest.raises(TomogramError, match=cause):
            of(volume)


def test_parts_that_can_be_read_once_alone_keep_plain_statistics() -> None:
    volume = changed(hot=1e6)
    found = density_statistics(iter([volume]))
    assert found.std == pytest.approx(volume.std(dtype=float))
    assert density_statistics([volume]).std == pytest.approx(10.0, rel=0.01)


def test_no_part_is_kept() -> None:
    """Statistics of a volume of any size need one part at a time, in float64, and a small sample."""
    edge, parts = 128, 12
    tracemalloc.start()
    try:
        density_statistics(np.random.default_rng(n).normal(size=(edge, edge, 16)) for n in range(parts))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < parts / 2 * 8 * edge * edge * 16

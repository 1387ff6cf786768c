"""Windowed segmentation: independent of the cut, right at the borders, strict about what it is given."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Block, Box, Zyx, blocks
from membrain_cloud.membranes.segmentation import Statistics, density_statistics, segment_block, window_stride

WINDOW = 16


def position_dependent(windows: np.ndarray) -> np.ndarray:
    """A stand-in for a network whose answer depends on where in its window a voxel lies, as a real one's does."""
    ramp = np.linspace(-1, 1, WINDOW, dtype=np.float32)
    return windows * (1 + ramp[:, None, None] * 0.5) + np.roll(windows, 1, axis=-1) * ramp


def run(volume: np.ndarray, block: Block, **changes: object) -> np.ndarray:
    options: dict = {"window": WINDOW, "overlap": 0.5, "mirrors": False, "batch": 1, "progress": lambda n: None}
    options |= changes
    return segment_block(
        position_dependent,
        lambda box: volume[box.slices],
        volume.shape,  # type: ignore[arg-type]
        block,
        statistics=density_statistics([volume]),
        **options,
    )


def whole(shape: Zyx) -> Block:
    return Block(0, Box((0, 0, 0), shape), Box((0, 0, 0), shape))


@pytest.mark.parametrize("mirrors", [False, True])
def test_blocks_give_bitwise_what_the_whole_volume_gives(mirrors: bool) -> None:
    volume = np.random.default_rng(1).standard_normal((37, 41, 50)).astype(np.float32)
    expected = run(volume, whole((37, 41, 50)), mirrors=mirrors)
    cut = blocks((37, 41, 50), (16, 24, 50), WINDOW, window_stride(WINDOW, 0.5))
    assert len(cut) > 4
    for block in cut:
        found = run(volume, block, mirrors=mirrors)
        np.testing.assert_array_equal(found, expected[block.core.slices])


def test_a_volume_thinner_than_the_window_is_padded_evenly() -> None:
    volume = np.random.default_rng(2).standard_normal((7, 30, 30)).astype(np.float32)
    found = run(volume, whole((7, 30, 30)))
    assert found.shape == volume.shape
    statistics = density_statistics([volume])
    padded = np.pad((volume - np.float32(statistics.mean)) / np.float32(statistics.std), ((4, 5), (0, 0), (0, 0)))
    identity = Statistics(0.0, 1.0, padded.size)
    expected = segment_block(
        position_dependent, lambda box: padded[box.slices], (16, 30, 30), whole((16, 30, 30)),
        statistics=identity, window=WINDOW, overlap=0.5, mirrors=False, batch=1, progress=lambda n: None,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected[4:11], atol=1e-5)


def test_integer_input_equals_float_input() -> None:
    volume = np.random.default_rng(3).integers(-128, 127, (20, 20, 20)).astype(np.int8)
    np.testing.assert_array_equal(run(volume, whole((20, 20, 20))), run(volume.astype(np.float64), whole((20, 20, 20))))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32", "float64"])
def test_statistics_in_parts_equal_numpy_for_every_type(dtype: str) -> None:
    rng = np.random.default_rng(4)
    volume = (rng.standard_normal((30, 20, 10)) * 20 + 60).astype(dtype)
    found = density_statistics(np.array_split(volume, 7))
    assert found.mean == pytest.approx(float(volume.astype(np.float64).mean()), rel=1e-9)
    assert found.std == pytest.approx(float(volume.astype(np.float64).std()), rel=1e-9)
    assert found.voxels == volume.size


def test_nan_constant_and_empty_tomograms_are_refused() -> None:
    volume = np.ones((4, 4, 4), np.float32)
    with pytest.raises(TomogramError, match="every voxel has the value 1"):
        density_statistics([volume])
    volume[0, 0, :2] = np.nan
    with pytest.raises(TomogramError, match="2 of 64 voxels"):
        density_statistics([volume])
    with pytest.raises(TomogramError, match="empty"):
        density_statistics([])


def test_an_overlap_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match="overlap"):
        window_stride(64, 1.0)

"""Scores on another grid: right places, right borders, and the same however the volume was cut."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.segmentation.regridding import Regridding
from membrain_cloud.segmentation.sliding_window import Slab


def ramp(shape: Zyx) -> np.ndarray:
    """Linear in all three axes: linear interpolation is exact on it."""
    z, y, x = np.indices(shape)
    return (3.0 * z - 2.0 * y + 0.5 * x).astype(np.float32)


def regridded(regridding: Regridding, volume: np.ndarray, core: Box, planes: int) -> np.ndarray:
    need = regridding.source_core(core)
    starts = range(need.start[0], need.stop[0], planes)
    slabs = [Slab(z, volume[z : min(z + planes, need.stop[0]), need.slices[1], need.slices[2]], None) for z in starts]
    made = list(regridding.apply(slabs, core))
    assert [slab.start for slab in made] == list(range(core.start[0], core.stop[0]))
    return np.concatenate([slab.logits for slab in made])


@pytest.mark.parametrize(("ratio", "offset"), [(1.4, 0.0), (0.6, 0.0), (2.0, 0.25), (1.0, -0.25), (1.0, 0.5)])
def test_values_lie_where_they_belong_and_the_ends_are_kept(ratio: float, offset: float) -> None:
    source = (21, 17, 26)
    target = tuple(round(n / ratio) for n in source)
    regridding = Regridding(source, target, ratio, offset)  # type: ignore[arg-type]
    found = regridded(regridding, ramp(source), Box((0, 0, 0), target), planes=4)  # type: ignore[arg-type]
    places = [np.clip(offset + ratio * np.arange(m), 0, n - 1) for n, m in zip(source, target, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij")
    np.testing.assert_allclose(found, 3 * z - 2 * y + 0.5 * x, atol=1e-4)


def test_a_part_is_the_part_of_the_whole_to_the_last_bit() -> None:
    regridding = Regridding((30, 31, 32), (43, 44, 46), 0.7, -0.1)
    volume = np.random.default_rng(0).standard_normal((30, 31, 32)).astype(np.float32)
    whole = regridded(regridding, volume, Box((0, 0, 0), (43, 44, 46)), planes=7)
    for core in (Box((0, 0, 0), (1, 44, 46)), Box((13, 7, 30), (29, 43, 46)), Box((42, 43, 45), (43, 44, 46))):
        np.testing.assert_array_equal(regridded(regridding, volume, core, planes=3), whole[core.slices])


def test_the_same_grid_passes_through() -> None:
    regridding = Regridding((4, 4, 4), (4, 4, 4), 1.0, 0.0)
    slab = Slab(0, ramp((4, 4, 4)), ramp((4, 4, 4)))
    assert list(regridding.apply([slab], Box((0, 0, 0), (4, 4, 4)))) == [slab]

"""Windowed segmentation: independent of the cut, right at the borders, strict about what it is given."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.errors import ChunkError, TomogramError
from membrain_cloud.networks.segmentation.window_averaging import Forward, WindowAverager
from membrain_cloud.segmentation.sliding_window import density_statistics, segment_slabs
from membrain_cloud.tiling import Tiling

if TYPE_CHECKING:
    from membrain_cloud.geometry import Box, Zyx

WINDOW = 16


def position_dependent(windows: torch.Tensor) -> torch.Tensor:
    """Return a value that depends on where in its window a voxel lies, as a network's does."""
    ramp = torch.linspace(-1, 1, WINDOW)
    return windows * (1 + ramp[:, None, None] * 0.5) + torch.roll(windows, 1, dims=-1) * ramp


def run(
    volume: np.ndarray,
    core_shape: Zyx | None = None,
    mirrors: str = "no",
    planes: int = 5,
    apart: bool = False,
    symmetric: bool = False,
    skip_void: bool = False,
    batch: int = 1,
    forward: Forward = position_dependent,
    ahead: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and variances of a volume, put together from all its blocks."""
    tiling = Tiling(WINDOW, WINDOW // 2, mirrors)  # type: ignore[arg-type]
    statistics = density_statistics([volume])
    logits, variance = np.full(volume.shape, np.nan, np.float32), np.full(volume.shape, np.nan, np.float32)
    for block in tiling.blocks(volume.shape, core_shape or volume.shape):
        averager = WindowAverager(
            forward, torch.device("cpu"), reach=WINDOW, halo=block.halo, core=block.core,
            mean=statistics.mean, std=statistics.std, symmetric=symmetric, variance=apart,
            skip_void=skip_void, batch=batch,
        )  # fmt: skip
        averager._ahead = ahead
        read = lambda box: volume[box.slices]  # noqa: E731
        for slab in segment_slabs(
            averager, read, volume.shape, block, tiling=tiling, planes_per_read=planes, progress=lambda n: None
        ):
            at = (slice(slab.start, slab.start + len(slab.logits)), *block.core.slices[1:])
            assert np.isnan(logits[at]).all()
            logits[at] = slab.logits
            if slab.variance is not None:
                variance[at] = slab.variance
    assert np.isfinite(logits).all()
    return logits, variance


def directly(volume: np.ndarray, mirrors: str) -> np.ndarray:
    """Segment by definition: pad, flip the whole volume, add up, divide by the weights, flip back, average."""
    normal = (volume - volume.mean(dtype=np.float64)) / volume.std(dtype=np.float64)
    axis = np.exp(-0.5 * ((np.arange(WINDOW) - (WINDOW - 1) / 2) / (WINDOW / 8)) ** 2)
    gauss = np.maximum(axis[:, None, None] * axis[None, :, None] * axis[None, None, :], 1e-3)
    flips = [()] if mirrors == "no" else [tuple(a for a in range(3) if k >> a & 1) for k in range(8)]
    total = np.zeros(volume.shape)
    for axes in flips:
        flipped = np.flip(normal, axes)
        missing = [max(WINDOW - n, 0) for n in flipped.shape]
        padded = np.pad(flipped, [(m // 2, m - m // 2) for m in missing])
        summed, weight = np.zeros(padded.shape), np.zeros(padded.shape)
        starts = [sorted({min(s, n - WINDOW) for s in range(0, n, WINDOW // 2)}) for n in padded.shape]
        for z in starts[0]:
            for y in starts[1]:
                for x in starts[2]:
                    at = (slice(z, z + WINDOW), slice(y, y + WINDOW), slice(x, x + WINDOW))
                    seen = position_dependent(torch.from_numpy(padded[at][None, None].copy()).float())
                    summed[at] += seen[0, 0].numpy() * gauss
                    weight[at] += gauss
        inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, flipped.shape, strict=True))
        total += np.flip((summed / weight)[inner], axes) / len(flips)
    return total


@pytest.mark.parametrize("shape", [(37, 41, 50), (7, 30, 29), (16, 16, 16), (40, 9, 11)])
@pytest.mark.parametrize("mirrors", ["no", "yes"])
def test_equals_the_definition(shape: Zyx, mirrors: str) -> None:
    volume = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(run(volume, mirrors=mirrors)[0], directly(volume, mirrors), atol=2e-5)


@pytest.mark.parametrize("mirrors", ["no", "yes", "adaptive"])
@pytest.mark.parametrize("core", [(16, 24, 50), (37, 20, 25), (16, 16, 20)])
def test_blocks_give_bitwise_what_the_whole_volume_gives(mirrors: str, core: Zyx) -> None:
    volume = np.random.default_rng(1).standard_normal((37, 41, 50)).astype(np.float32)
    expected = run(volume, mirrors=mirrors)[0]
    np.testing.assert_array_equal(run(volume, core, mirrors, planes=7)[0], expected)


def test_variances_too_are_bitwise_the_same_however_a_volume_is_cut() -> None:
    """Odd pieces: torch rounds the last elements of an array otherwise than the others."""
    volume = np.random.default_rng(2).standard_normal((37, 41, 51)).astype(np.float32)
    expected = run(volume, mirrors="yes", apart=True)[1]
    for core in ((17, 13, 41), (37, 7, 9)):
        np.testing.assert_array_equal(run(volume, core, "yes", planes=7, apart=True)[1], expected)


def test_batches_and_pieces_read_change_nothing() -> None:
    volume = np.random.default_rng(6).standard_normal((37, 20, 20)).astype(np.float32)
    expected = run(volume, mirrors="adaptive")[0]
    for batch, planes in ((3, 1), (8, 100)):
        np.testing.assert_array_equal(run(volume, mirrors="adaptive", batch=batch, planes=planes)[0], expected)


def test_variance_is_of_the_probability_and_does_not_change_logits() -> None:
    volume = np.random.default_rng(7).standard_normal((24, 20, 20)).astype(np.float32)
    logits, variance = run(volume, mirrors="yes", apart=True)
    np.testing.assert_array_equal(logits, run(volume, mirrors="yes")[0])
    each = []
    for k in range(8):
        axes = tuple(a for a in range(3) if k >> a & 1)
        each.append(np.flip(directly(np.flip(volume, axes), "no"), axes))
    np.testing.assert_allclose(variance, np.var(1 / (1 + np.exp(-np.stack(each))), axis=0, ddof=1), atol=1e-5)


def test_a_symmetric_network_is_asked_once_and_its_doubt_is_its_answers() -> None:
    """Undecided everywhere: another network would be asked four times."""
    volume, looks = np.random.default_rng(7).standard_normal((24, 20, 20)).astype(np.float32), 0

    def forward(windows: torch.Tensor) -> torch.Tensor:
        nonlocal looks
        looks += len(windows)
        return windows / 4

    logits, variance = run(volume, mirrors="adaptive", forward=forward, apart=True, symmetric=True)
    assert looks == Tiling(WINDOW, WINDOW // 2, "adaptive").count(volume.shape)
    sure = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(variance, sure * (1 - sure), atol=1e-6)
    run(volume, mirrors="adaptive", forward=forward)
    assert looks > 2 * Tiling(WINDOW, WINDOW // 2, "adaptive").count(volume.shape)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "float16", "float64", ">f4"])
def test_every_type_equals_float32(dtype: str) -> None:
    volume = np.random.default_rng(3).integers(0, 127, (20, 20, 20))
    expected = run(volume.astype(np.float32))[0]
    np.testing.assert_array_equal(run(volume.astype(dtype))[0], expected)


def test_windows_without_signal_are_left_out() -> None:
    volume = np.zeros((64, 16, 16), np.float32)
    volume[40:] = np.random.default_rng(8).standard_normal((24, 16, 16))
    logits = run(volume, skip_void=True)[0]
    np.testing.assert_allclose(logits[:20], -10, rtol=1e-6)
    np.testing.assert_array_equal(logits[50:], run(volume)[0][50:])


@pytest.mark.parametrize(("level", "looks"), [(5.0, 1), (0.0, 4)])
def test_windows_are_looked_at_again_while_their_voxels_are_undecided(level: float, looks: int) -> None:
    """Every mirror has another level, the undecided ones on both sides of the threshold."""
    seen: list[float] = []

    def forward(windows: torch.Tensor) -> torch.Tensor:
        seen.extend(float(window[0, 0, 0, 0]) for window in windows)
        return windows * 0 + level + 0.1 * len(seen)

    volume = np.arange(16**3, dtype=np.float32).reshape((16, 16, 16))
    logits = run(volume, mirrors="adaptive", forward=forward)[0]
    assert len(seen) == len(set(seen)) == looks  # each look begins at another corner
    np.testing.assert_allclose(logits, level + 0.1 * (looks + 1) / 2, rtol=1e-5)


def test_looks_end_where_undecided_voxels_are_few() -> None:
    looks = 0

    def forward(windows: torch.Tensor) -> torch.Tensor:
        nonlocal looks
        looks += len(windows)
        made = torch.full_like(windows, 5.0)
        made[..., :2, :2, :2] = 0.0  # eight voxels of 4096 are a fifth of a percent
        return made

    run(np.random.default_rng(9).standard_normal((16, 16, 16)).astype(np.float32), mirrors="adaptive", forward=forward)
    assert looks == 1


def test_what_reading_raises_reaches_the_caller() -> None:
    threads = threading.active_count()
    tiling, shape = Tiling(WINDOW, 8, "no"), (40, 16, 16)
    (block,) = tiling.blocks(shape, shape)
    averager = WindowAverager(
        position_dependent, torch.device("cpu"), reach=WINDOW, halo=block.halo, core=block.core,
        mean=0.0, std=1.0, symmetric=False, variance=False, skip_void=False, batch=1,
    )  # fmt: skip

    def read(box: Box) -> np.ndarray:
        if box.start[0] >= 20:
            raise ChunkError("chunk 0/2/0/0 is torn", "copy it again")
        return np.ones(box.shape, np.float32)

    slabs = segment_slabs(averager, read, shape, block, tiling=tiling, planes_per_read=10, progress=lambda n: None)
    with pytest.raises(ChunkError, match="torn"):
        list(slabs)
    assert threading.active_count() < threads + 20


def test_only_some_planes_are_held_at_a_time() -> None:
    shape = (400, 16, 16)
    tiling = Tiling(WINDOW, 8, "yes")
    (block,) = tiling.blocks(shape, shape)
    averager = WindowAverager(
        position_dependent, torch.device("cpu"), reach=WINDOW, halo=block.halo, core=block.core,
        mean=0.0, std=1.0, symmetric=False, variance=False, skip_void=False, batch=1,
    )  # fmt: skip
    asked: list[Box] = []

    def read(box: Box) -> np.ndarray:
        asked.append(box)
        return np.ones(box.shape, np.float32)

    for slab in segment_slabs(averager, read, shape, block, tiling=tiling, planes_per_read=10, progress=lambda n: None):
        ahead = asked[-1].stop[0] - (slab.start + len(slab.logits))
        assert ahead <= WINDOW + 3 * 10
        assert len(slab.logits) <= WINDOW
    assert [box.start[0] for box in asked] == list(range(0, 400, 10))


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


@pytest.mark.parametrize(("mirrors", "batch"), [("no", 1), ("yes", 3), ("adaptive", 1), ("adaptive", 2)])
def test_windows_sent_ahead_give_the_same_as_one_after_the_other(mirrors: str, batch: int) -> None:
    """As on a GPU, where the next windows are on their way before the last ones are settled."""
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((40, 24, 24)).astype(np.float32)
    volume[:16] = 3  # void in part, so that windows are left out
    one, several = (run(volume, mirrors=mirrors, skip_void=True, batch=batch, ahead=ahead)[0] for ahead in (1, 3))
    np.testing.assert_allclose(several, one, atol=0 if batch == 1 else 1e-5)

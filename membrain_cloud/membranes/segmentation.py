"""Windowed segmentation: a network's windows over a volume, averaged with Gaussian weights, block by block.

The windows form one lattice that depends on the volume's shape alone (`geometry.window_starts`). A block computes
every window that touches its core, in the lattice's order, and keeps its core: so the result does not depend on how
the volume was cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Block, Box, Zyx, window_boxes

Float32 = NDArray[np.float32]
Predict = Callable[[Float32], Float32]
# MONAI's and so MemBrain-seg's: windows weigh as a Gaussian of an eighth of their edge, never less than 1e-3.
_SIGMA_FRACTION = 0.125
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (ddof 0) of a whole tomogram, by which its windows are normalised."""

    mean: float
    std: float
    voxels: int


def density_statistics(parts: Iterable[NDArray[np.generic]]) -> Statistics:
    """Mean and standard deviation over parts that together are a tomogram; one pass, float64.

    Parts are merged by Chan's formula, so large offsets (unsigned integers) lose no precision.
    Raises TomogramError for NaN or infinite values, for a constant and for an empty tomogram.
    """
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        if part.size == 0:
            continue
        values = part.astype(np.float64)
        part_mean = float(values.mean())
        if not math.isfinite(part_mean):
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise TomogramError(
                f"{bad} of {part.size} voxels in one part are NaN or infinite",
                "repair the tomogram (for instance set such voxels to the mean) and run again",
            )
        values -= part_mean
        part_squares = float(np.einsum("i,i->", values.ravel(), values.ravel()))
        shift, total = part_mean - mean, count + part.size
        mean += shift * part.size / total
        squares += part_squares + shift * shift * count * part.size / total
        count = total
    if count == 0:
        raise TomogramError("the tomogram is empty", "check how it was written")
    std = math.sqrt(squares / count)
    if not std > 1e-9 * max(abs(mean), 1e-30):
        raise TomogramError(
            f"every voxel has the value {mean:g}", "there is nothing to segment; check how it was written"
        )
    return Statistics(mean, std, count)


def window_stride(window: int, overlap: float) -> int:
    """Distance between windows for an overlap in [0, 1). Raises UsageError outside."""
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap {overlap} of windows: must be at least 0 and below 1", "try 0.25")
    return max(1, round(window * (1 - overlap)))


def padded_shape(shape: Zyx, window: int) -> Zyx:
    """The volume's shape with each axis at least one window long."""
    z, y, x = (max(n, window) for n in shape)
    return z, y, x


def window_weights(window: int) -> Float32:
    """(w, w, w) float32 Gaussian weights, clamped from below."""
    axis = np.arange(window, dtype=np.float64) - (window - 1) / 2
    line = np.exp(-0.5 * (axis / (_SIGMA_FRACTION * window)) ** 2)
    cube = line[:, None, None] * line[None, :, None] * line[None, None, :]
    return np.maximum(cube, _LEAST_WEIGHT).astype(np.float32)


def block_windows(shape: Zyx, block: Block, window: int, stride: int) -> list[Box]:
    """The windows of the volume's lattice that touch the block's core, in the lattice's order."""
    return [box for box in window_boxes(shape, window, stride) if box.intersection(block.core) is not None]


def segment_block(
    predict: Predict,
    read: Callable[[Box], NDArray[np.generic]],
    shape: Zyx,
    block: Block,
    *,
    statistics: Statistics,
    window: int,
    overlap: float,
    mirrors: bool,
    batch: int,
    progress: Callable[[int], None],
) -> Float32:
    """Logits of one block's core.

    Parameters
    ----------
    predict : (B, 1, w, w, w) float32, normalised -> logits of the same shape.
    read : box -> voxels of the tomogram, of any real type.
    shape : of the tomogram.  block : as `geometry.blocks(shape, core_shape, window, stride)` cuts it.
    statistics : of the whole tomogram.
    mirrors : average over the eight mirrored windows too (eight times the work).
    batch : windows a call of `predict`.
    progress : told the windows done by each call.

    Returns
    -------
    float32 logits of the shape of `block.core`; membrane where above the threshold.
    """
    stride = window_stride(window, overlap)
    stored = block.halo.intersection(Box((0, 0, 0), shape))
    assert stored is not None
    density = (read(stored).astype(np.float32) - np.float32(statistics.mean)) / np.float32(statistics.std)
    # A volume thinner than the window is padded with zeros (the mean), half before and half after.
    pad = [(max(window - n, 0) // 2, max(window - n, 0) - max(window - n, 0) // 2) for n in shape]
    density = np.pad(density, pad)
    origin = stored.start
    shift = tuple(before for before, _ in pad)
    core = Box(
        tuple(a + s for a, s in zip(block.core.start, shift, strict=True)),  # type: ignore[arg-type]
        tuple(b + s for b, s in zip(block.core.stop, shift, strict=True)),  # type: ignore[arg-type]
    )
    padded = padded_shape(shape, window)
    boxes = block_windows(padded, Block(block.index, core, core), window, stride)
    weights = window_weights(window)
    total = np.zeros(core.shape, np.float32)
    weight = np.zeros(core.shape, np.float32)
    for group in _batched(boxes, batch):
        windows = np.stack([density[box.within(Box(origin, origin))] for box in group])[:, None]
        logits = _mirrored(predict, windows) if mirrors else predict(windows)
        for box, logit in zip(group, logits[:, 0], strict=True):
            common = box.intersection(core)
            assert common is not None
            inner = common.within(box)
            total[common.within(core)] += logit[inner] * weights[inner]
            weight[common.within(core)] += weights[inner]
        progress(len(group))
    return total / weight


def _batched(boxes: list[Box], size: int) -> Iterable[tuple[Box, ...]]:
    return (tuple(boxes[k : k + size]) for k in range(0, len(boxes), size))


def _mirrored(predict: Predict, windows: Float32) -> Float32:
    total = np.zeros(windows.shape, np.float32)
    for axes in itertools.chain.from_iterable(itertools.combinations((2, 3, 4), n) for n in range(4)):
        mirrored = np.ascontiguousarray(np.flip(windows, axes))
        total += np.flip(predict(mirrored), axes)
    return total / np.float32(8)

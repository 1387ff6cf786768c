"""Find where a network is least sure of its segmentation: doubt, summed into cells, and the boxes with most of it.

Doubt is a variance: over the mirrors where that was kept, else p (1 - p) of the score, with p = 1/2 at the threshold.
Either is high on the surface of every membrane, since the score crosses the threshold there. So a voxel counts only the
least doubt among itself and its neighbours: a surface, which is thinner, vanishes, and a membrane that is doubtful
throughout remains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from membrain_cloud.geometry import Box, Zyx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Evidence = Literal["uncertainty", "scores"]
#: A box is so many cells wide: its place is chosen to an eighth of its edge.
CELLS = 8


def doubt(values: NDArray[Any], evidence: Evidence, threshold: float) -> NDArray[np.float32]:
    """Compute the doubt of each voxel.

    Parameters
    ----------
    values : ndarray, any shape, floating or uint8
        Variances of the probability; or logits (floating) or probabilities in 256 steps (uint8).
    evidence : str
        "uncertainty" for variances, "scores" for logits and probabilities.
    threshold : float
        Threshold of the logits; used with scores.

    Returns
    -------
    ndarray, the shape of the values, float32
        Doubt, at least 0.
    """
    if values.dtype.itemsize > 2:
        return _doubt(values, evidence, threshold)
    # Of one or two bytes there are so few values that each is worked out once.
    every = np.arange(2 ** (8 * values.dtype.itemsize)).astype(f"u{values.dtype.itemsize}").view(values.dtype)
    result: NDArray[np.float32] = _doubt(every, evidence, threshold)[values.view(f"u{values.dtype.itemsize}")]
    return result


def _doubt(values: NDArray[Any], evidence: Evidence, threshold: float) -> NDArray[np.float32]:
    """Compute the doubt of each value."""
    known = values.astype(np.float64)
    if evidence == "uncertainty":
        return np.nan_to_num(known, nan=0.0, posinf=0.0, neginf=0.0).clip(0.0).astype(np.float32)
    if values.dtype == np.uint8:
        chance = (known + 0.5) / 256.0
        known = np.log(chance / (1.0 - chance))
    known = np.nan_to_num(known, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    chance = 1.0 / (1.0 + np.exp(-np.clip(known - threshold, -60.0, 60.0)))
    return (chance * (1.0 - chance)).astype(np.float32)


def least_around(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the minimum over each voxel and its 26 neighbours inside of the array.

    Parameters
    ----------
    values : ndarray, shape (Z, Y, X), float32
        The values.

    Returns
    -------
    ndarray, shape (Z, Y, X), float32
        The minima.
    """
    for axis in range(3):
        least = values.copy()
        inner = np.moveaxis(least, axis, 0)
        given = np.moveaxis(values, axis, 0)
        np.minimum(inner[1:], given[:-1], out=inner[1:])
        np.minimum(inner[:-1], given[1:], out=inner[:-1])
        values = least
    return values


class CellSums:
    """Sums of a volume's values over cells, added box by box in float64.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    cell : int
        Edge of a cell in voxels.
    """

    def __init__(self, shape: Zyx, cell: int) -> None:
        self.shape, self.cell = shape, cell
        self.sums = np.zeros([-(-n // cell) for n in shape])

    def add(self, box: Box, values: NDArray[Any]) -> None:
        """Add the voxels of a box; each voxel of the volume must be added once.

        Parameters
        ----------
        box : Box
            Part of the volume.
        values : ndarray, the shape of the box, floating
            Its values.
        """
        for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True)):
            first = start // self.cell
            edges = np.arange(first * self.cell, stop, self.cell)
            values = np.add.reduceat(values, np.maximum(edges - start, 0), axis=axis, dtype=np.float64)
        z, y, x = (slice(a // self.cell, a // self.cell + n) for a, n in zip(box.start, values.shape, strict=True))
        self.sums[z, y, x] += values


@dataclass(frozen=True)
class DoubtfulBox:
    """A box and the mean doubt of its voxels."""

    box: Box
    mean: float


def doubtful_boxes(
    sums: NDArray[np.float64], shape: Zyx, edge: int, count: int, taken: Sequence[Box]
) -> list[DoubtfulBox]:
    """Choose boxes with most doubt that do not overlap, most doubt first.

    Boxes start on cells (the last ones end with the volume) and are as wide as the volume where that is narrower. The
    choice is greedy; equal boxes come in zyx order.

    Parameters
    ----------
    sums : ndarray, shape of the cells, float64
        Of `CellSums` with cells of edge / CELLS voxels.
    shape : tuple of int
        Voxels along (z, y, x).
    edge : int
        Edge of the boxes in voxels, a multiple of CELLS.
    count : int
        Largest number of boxes.
    taken : sequence of Box
        Boxes that must not be overlapped either.

    Returns
    -------
    list of DoubtfulBox
        At most `count` boxes.
    """
    cell = edge // CELLS
    ways = [_starts(n, edge, cell) for n in shape]
    totals = sums
    for axis, way in enumerate(ways):
        running = np.concatenate([np.zeros_like(totals.take([0], axis)), totals.cumsum(axis)], axis)
        first = np.arange(len(way))
        wide = CELLS if shape[axis] > edge else totals.shape[axis]
        totals = running.take(np.minimum(first + wide, totals.shape[axis]), axis) - running.take(first, axis)
    extent = tuple(min(edge, n) for n in shape)
    voxels = math.prod(extent)
    # Rounding noise of the running sums must not decide between equal boxes.
    rounded = np.round(totals / voxels, 12).ravel()
    chosen: list[DoubtfulBox] = []
    for index in np.argsort(-rounded, kind="stable"):
        if len(chosen) == count or rounded[index] <= 0:
            break
        place = np.unravel_index(int(index), totals.shape)
        start = tuple(way[k] for way, k in zip(ways, place, strict=True))
        box = Box(start, tuple(a + n for a, n in zip(start, extent, strict=True)))  # type: ignore[arg-type]
        if not any(box.intersection(other) for other in (*taken, *(found.box for found in chosen))):
            chosen.append(DoubtfulBox(box, float(rounded[index])))
    return chosen


def _starts(length: int, edge: int, cell: int) -> list[int]:
    """Return where boxes may start on an axis."""
    if length <= edge:
        return [0]
    return [min(k * cell, length - edge) for k in range(-(-length // cell) - CELLS + 1)]

"""Interpolate scores from one voxel grid to another, plane by plane.

Voxel i of the new grid lies at `offset + i * ratio` of the old one, on every axis; beyond its ends the last voxel
counts. The value of a voxel depends on its position only, so the result does not depend on how a volume was cut.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.segmentation.sliding_window import Slab

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Regridding:
    """Linear interpolation between two grids.

    Attributes
    ----------
    source, target : tuple of int
        Voxels along (z, y, x).
    ratio : float
        Voxel spacing of the target over that of the source.
    offset : float
        Position of the target's first voxel, in voxels of the source.
    """

    source: Zyx
    target: Zyx
    ratio: float
    offset: float

    @property
    def is_identity(self) -> bool:
        """Whether both grids are the same."""
        return self.source == self.target and self.ratio == 1 and self.offset == 0

    def source_core(self, core: Box) -> Box:
        """Return the part of the source that a part of the target needs.

        Parameters
        ----------
        core : Box
            Part of the target.

        Returns
        -------
        Box
            Part of the source.
        """
        if self.is_identity:
            return core
        first = [self._between(axis, a)[0] for axis, a in enumerate(core.start)]
        last = [self._between(axis, b - 1)[1] for axis, b in enumerate(core.stop)]
        return Box((first[0], first[1], first[2]), (last[0] + 1, last[1] + 1, last[2] + 1))

    def apply(self, slabs: Iterable[Slab], core: Box) -> Iterator[Slab]:
        """Interpolate slabs.

        Parameters
        ----------
        slabs : iterable of Slab
            Slabs of `source_core(core)`, in order.
        core : Box
            Part of the target.

        Yields
        ------
        Slab
            Slabs of one plane, which together are `core`, without variances.
        """
        if self.is_identity:
            yield from slabs
            return
        held: deque[tuple[int, Float32]] = deque()
        start = self.source_core(core).start
        rows, columns = (self._places(axis, core.start[axis], core.stop[axis], start[axis]) for axis in (1, 2))
        coming = ((slab.start + k, plane) for slab in slabs for k, plane in enumerate(slab.logits))
        for z in range(core.start[0], core.stop[0]):
            low, high, part = self._between(0, z)
            while not held or held[-1][0] < high:
                number, plane = next(coming)
                # Copied: a view would keep its whole slab.
                held.append((number, _interpolated(_interpolated(plane, *rows, axis=0), *columns, axis=1)))
            while held[0][0] < low:
                held.popleft()
            here, there = held[0][1], held[min(1, len(held) - 1)][1]
            yield Slab(z, ((1 - part) * here + part * there)[None].astype(np.float32), None)

    def _between(self, axis: int, index: int) -> tuple[int, int, float]:
        """Return the two source voxels around a target voxel, and its distance from the first one as a fraction."""
        last = self.source[axis] - 1
        place = min(max(self.offset + index * self.ratio, 0.0), float(last))
        low = int(place)
        return low, min(low + (place > low), last), place - low

    def _places(
        self, axis: int, first: int, last: int, start: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
        """Return the source voxels around a range of target voxels, and the weights of the second ones."""
        found = [self._between(axis, index) for index in range(first, last)]
        low, high, part = (np.array(column) for column in zip(*found, strict=True))
        return low - start, high - start, part.astype(np.float32)


def _interpolated(
    plane: Float32, low: NDArray[np.intp], high: NDArray[np.intp], part: Float32, *, axis: int
) -> Float32:
    """Return a plane interpolated along one axis."""
    weights = part[:, None] if axis == 0 else part
    found: Float32 = (1 - weights) * plane.take(low, axis) + weights * plane.take(high, axis)
    return found

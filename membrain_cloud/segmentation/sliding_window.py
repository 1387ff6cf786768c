"""Sliding-window segmentation: windows over a volume, averaged with Gaussian weights, plane by plane.

The windows form one tiling that depends on the shape of the volume only (`tiling.Tiling`). A block computes every
window that touches its core, in the order of the tiling, and keeps its core; so the result does not depend on how the
volume was cut. Planes are read when a window needs them, and returned as soon as no window adds to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.geometry import Block, Box, Zyx
from membrain_cloud.segmentation.density_statistics import Statistics, density_statistics

if TYPE_CHECKING:
    from membrain_cloud.tiling import Tiling, Window

__all__ = ["Slab", "Statistics", "WindowAverager", "density_statistics", "segment_slabs"]

Float32 = NDArray[np.float32]
Read = Callable[[Box], NDArray[Any]]


class WindowAverager(Protocol):
    """Runs a network on windows and averages the results; `networks.segmentation.window_averaging` implements it."""

    def start(self, plane: int) -> None:
        """Begin at a plane of the volume.

        Parameters
        ----------
        plane : int
            Index of the plane along z.
        """

    def feed(self, plane: int, voxels: NDArray[Any]) -> None:
        """Take the voxels of planes.

        Parameters
        ----------
        plane : int
            First plane.
        voxels : ndarray, shape (n, Y, X), any real dtype
            Voxels of the planes from there on.
        """

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        """Run the network on windows, and add the results up.

        Parameters
        ----------
        windows : sequence of Window
            Windows whose planes have been fed and not yet taken.
        progress : callable
            Gets the number of windows done since its last call.
        """

    def take(self, planes: int) -> tuple[Float32, Float32 | None]:
        """Return logits and variances of the next planes, (n, Y, X) float32, and forget them.

        Parameters
        ----------
        planes : int
            Number of planes along z.
        """


@dataclass(frozen=True)
class Slab:
    """Consecutive planes of a result.

    Attributes
    ----------
    start : int
        First plane, in voxels of the volume.
    logits : ndarray, shape (n, Y, X), float32
        Membrane where above the threshold.
    variance : ndarray, shape (n, Y, X), float32, or None
        Variance (ddof 1) of the probability over the mirrors; p (1 - p) for a symmetric network.
    """

    start: int
    logits: Float32
    variance: Float32 | None


def segment_slabs(
    averager: WindowAverager,
    read: Read,
    shape: Zyx,
    block: Block,
    *,
    tiling: Tiling,
    planes_per_read: int,
    progress: Callable[[int], None],
) -> Iterator[Slab]:
    """Segment one block from the first to the last plane of its core; memory does not grow with its depth.

    Parameters
    ----------
    averager : WindowAverager
        Made for this block.
    read : callable
        Takes a box of the block's halo and returns its voxels, (Z, Y, X), any real dtype. It is called from a second
        thread, for the planes that come next.
    shape : tuple of int
        Voxels of the tomogram along (z, y, x).
    block : Block
        One of `tiling.blocks(...)`.
    tiling : Tiling
        The windows.
    planes_per_read : int
        Planes that are read at once; best the depth of the stored chunks.
    progress : callable
        Called with numbers of windows, as they are finished.

    Yields
    ------
    Slab
        Of the height and width of the core; together they are the core.
    """
    windows = tiling.windows(shape, block.core)
    layers = [list(group) for _, group in itertools.groupby(windows, lambda w: w.box.start[0])]
    starts = [layer[0].box.start[0] for layer in layers]
    averager.start(starts[0])
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = _Ahead(reader, read, block.halo, planes_per_read)
        for layer, start, then in zip(layers, starts, [*starts[1:], starts[-1] + tiling.reach], strict=True):
            for plane, voxels in reading.until(start + tiling.reach):
                averager.feed(plane, voxels)
            averager.paint(layer, progress)
            logits, variance = averager.take(then - start)
            low, high = max(start, block.core.start[0]), min(then, block.core.stop[0])
            if low < high:
                part = slice(low - start, high - start)
                yield Slab(low, logits[part], None if variance is None else variance[part])


class _Ahead:
    """Reads the planes of a halo in order, one piece ahead of the one that is used."""

    def __init__(self, pool: ThreadPoolExecutor, read: Read, halo: Box, planes: int) -> None:
        self.pool, self.read, self.halo = pool, read, halo
        # Pieces end at multiples of their depth, where stored chunks end.
        cuts = [halo.start[0], *range((halo.start[0] // planes + 1) * planes, halo.stop[0], planes), halo.stop[0]]
        self.pieces = list(itertools.pairwise(cuts))
        self.next: Future[NDArray[Any]] | None = None

    def until(self, plane: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first plane, voxels) of the pieces that begin before `plane` and were not yielded yet."""
        while self.pieces and self.pieces[0][0] < plane:
            first = self.pieces[0][0]
            voxels = (self.next or self._begin()).result()
            self.pieces.pop(0)
            self.next = self._begin() if self.pieces else None
            yield first, voxels

    def _begin(self) -> Future[NDArray[Any]]:
        first, last = self.pieces[0]
        box = Box((first, *self.halo.start[1:]), (last, *self.halo.stop[1:]))
        return self.pool.submit(self.read, box)

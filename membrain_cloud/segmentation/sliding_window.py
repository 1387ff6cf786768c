"""Windowed segmentation: a network's windows over a volume, averaged with Gaussian weights, plane by plane.

The windows form one tiling that depends on the volume's shape alone (`tiling.Tiling`). A block looks at every window
that touches its core, in the tiling's order, and keeps its core: so the result does not depend on how
the volume was cut. Planes are read as windows come to need them and handed out as soon as no window adds to them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import TomogramError
from membrain_cloud.geometry import Block, Box, Zyx

if TYPE_CHECKING:
    from membrain_cloud.tiling import Tiling, Window

Float32 = NDArray[np.float32]
Read = Callable[[Box], NDArray[Any]]


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


class WindowAverager(Protocol):
    """Looks at windows and adds them up; `networks.averager.WindowAverager` on any device."""

    def start(self, plane: int) -> None: ...

    def feed(self, plane: int, voxels: NDArray[Any]) -> None: ...

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None: ...

    def take(self, planes: int) -> tuple[Float32, Float32 | None]: ...


@dataclass(frozen=True)
class Slab:
    """Consecutive planes of a result.

    start : the first of them, in the volume's voxels.
    logits : (n, Y, X) float32; membrane where above the threshold.
    variance : (n, Y, X) float32 of the sigmoid over the mirrors (ddof 1), a symmetric network's p (1 - p), or None.
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
    """Segment one block, from its core's first plane to its last; memory does not grow with the block's depth.

    Parameters
    ----------
    averager : made for this block (a `WindowAverager`): knows the network and the tomogram's statistics.
    read : box of the block's halo -> voxels of the tomogram, of any real type. Called from a second thread, for the
        planes that come next.
    shape : of the tomogram.  block : one of `tiling.blocks(...)`.
    planes_per_read : depth of what is read at once; best that of the stored chunks.
    progress : told the windows done.

    Yields
    ------
    Slab : of the core's height and width; together they are the core.
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
    """Reads a halo's planes in order, one piece ahead of what is asked for."""

    def __init__(self, pool: ThreadPoolExecutor, read: Read, halo: Box, planes: int) -> None:
        self.pool, self.read, self.halo = pool, read, halo
        # Pieces end at multiples of their depth, where stored chunks end.
        cuts = [halo.start[0], *range((halo.start[0] // planes + 1) * planes, halo.stop[0], planes), halo.stop[0]]
        self.pieces = list(itertools.pairwise(cuts))
        self.next: Future[NDArray[Any]] | None = None

    def until(self, plane: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first plane, voxels) of the pieces not handed out yet that begin before `plane`."""
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

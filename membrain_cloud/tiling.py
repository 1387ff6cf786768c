"""The tiling of a volume by windows: where they lie, in which mirrors, and with which weights.

Everything here is a function of the volume's shape and of the settings, never of a block. So a result does not depend
on how the volume was cut.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Block, Box, Zyx

if TYPE_CHECKING:
    from collections.abc import Iterator

Mirrors = Literal["no", "yes", "adaptive"]
Flips = tuple[bool, bool, bool]
NO_FLIPS: Flips = (False, False, False)
ALL_FLIPS: tuple[Flips, ...] = tuple(itertools.product((False, True), (False, True), (False, True)))
# Of one window in adaptive mode: on phantoms more than four changed nothing but the time.
MAX_MIRRORS = 4


@dataclass(frozen=True)
class Window:
    """One window over a volume.

    Attributes
    ----------
    box : Box
        In voxels of the volume; it may reach beyond a volume that is thinner than the window.
    flips : tuple of bool
        Axes (z, y, x) along which the network gets it mirrored.
    further : tuple
        Further mirrors, taken in this order while the window is undecided.
    copy : int
        Index of the average that it belongs to; averages of different mirrors can be kept separate.
    weight : float
        Weight of the copy.
    neighbours : tuple
        Along z, y and x, the starts of the windows of its tiling that overlap it, itself included, relative to its own.
        Its share of each voxel depends on them.
    """

    box: Box
    flips: Flips
    further: tuple[Flips, ...]
    copy: int
    weight: float
    neighbours: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Tiling:
    """How windows lie over any volume.

    Attributes
    ----------
    reach : int
        Edge of a window in voxels of the volume. The network gets as many, or these resampled to its own window.
    stride : int
        Distance of windows in voxels.
    mirrors : str
        "no". "yes": every window in all eight mirrors, each on the mirrored tiling, as flipping the whole volume does
        (MemBrain-seg's test-time augmentation). "adaptive": every window in one mirror, chosen by its place so that
        with an overlap of one half a voxel is seen in all eight; and in up to three further ones, the opposite one
        first, while voxels that count are undecided.
    """

    reach: int
    stride: int
    mirrors: Mirrors

    @property
    def copies(self) -> int:
        """Number of averages that are kept separate."""
        return 8 if self.mirrors == "yes" else 1

    def windows(self, shape: Zyx, core: Box | None = None) -> list[Window]:
        """List the windows of a volume in the order in which they are added up.

        Parameters
        ----------
        shape : tuple of int
            Voxels of the volume along (z, y, x).
        core : Box, optional
            Only windows that touch it. Default: all.

        Returns
        -------
        list of Window
            The windows.
        """
        found = []
        for copy, tiling in enumerate(ALL_FLIPS if self.mirrors == "yes" else (NO_FLIPS,)):
            axes = [self.starts(n, flipped) for n, flipped in zip(shape, tiling, strict=True)]
            places = [list(enumerate(axis)) for axis in axes]
            if core is not None:
                places = [
                    [(k, s) for k, s in axis if s < b and s + self.reach > a]
                    for axis, a, b in zip(places, core.start, core.stop, strict=True)
                ]
            around = [{s: self._around(s, axis) for s in axis} for axis in axes]
            for (i, z), (j, y), (k, x) in itertools.product(*places):
                flips: Flips = tiling
                further: tuple[Flips, ...] = ()
                if self.mirrors == "adaptive":
                    flips, *rest = mirror_sequence((i % 2 == 1, j % 2 == 1, k % 2 == 1))
                    further = tuple(rest)
                box = Box((z, y, x), (z + self.reach, y + self.reach, x + self.reach))
                neighbours = (around[0][z], around[1][y], around[2][x])
                found.append(Window(box, flips, further, copy, 1 / self.copies, neighbours))
        return sorted(found, key=lambda w: (w.box.start[0], w.copy, w.box.start[1:]))

    def count(self, shape: Zyx) -> int:
        """Return the number of windows of a whole volume, further mirrors not counted.

        Parameters
        ----------
        shape : tuple of int
            Voxels of the volume along (z, y, x).

        Returns
        -------
        int
            Number of windows in all copies.
        """
        per_axis = [len(self.starts(n, False)) for n in shape]
        return self.copies * per_axis[0] * per_axis[1] * per_axis[2]

    def starts(self, length: int, flipped: bool) -> list[int]:
        """Return the starts of the windows along one axis.

        Parameters
        ----------
        length : int
            Voxels of the axis. A window longer than the axis is centred on it, off by one voxel in the mirror where the
            difference is odd; its start is negative.
        flipped : bool
            Whether the axis is mirrored: its last, clamped window is then the first.

        Returns
        -------
        list of int
            Starts in voxels, ascending.
        """
        missing = max(self.reach - length, 0)
        starts = window_starts(max(length, self.reach), self.reach, self.stride)
        if flipped:
            return [length - self.reach - s + missing // 2 for s in reversed(starts)]
        return [s - missing // 2 for s in starts]

    def blocks(self, shape: Zyx, core_shape: Zyx) -> list[Block]:
        """Cut a volume into blocks whose halos contain the windows that touch their cores.

        Parameters
        ----------
        shape : tuple of int
            Voxels of the volume along (z, y, x).
        core_shape : tuple of int
            Voxels of a core along (z, y, x); the last ones are smaller.

        Returns
        -------
        list of Block
            Blocks in zyx order.
        """
        found: list[Block] = []
        for start in itertools.product(*(range(0, n, c) for n, c in zip(shape, core_shape, strict=True))):
            stop = tuple(min(a + c, n) for a, c, n in zip(start, core_shape, shape, strict=True))
            found.append(self.block(len(found), shape, Box(start, stop)))  # type: ignore[arg-type]
        return found

    def block(self, index: int, shape: Zyx, core: Box) -> Block:
        """Return a core with its halo, which contains the windows that touch it.

        Parameters
        ----------
        index : int
            Index of the block.
        shape : tuple of int
            Voxels of the volume along (z, y, x).
        core : Box
            The part that is written.

        Returns
        -------
        Block
            The block.
        """
        lower, upper = [], []
        for a, b, n in zip(core.start, core.stop, shape, strict=True):
            touching = [s for s in self._all_starts(n) if s < b and s + self.reach > a]
            lower.append(max(min(touching), 0))
            upper.append(min(max(touching) + self.reach, n))
        return Block(index, core, Box(tuple(lower), tuple(upper)))  # type: ignore[arg-type]

    def _all_starts(self, length: int) -> Iterator[int]:
        yield from self.starts(length, False)
        if self.mirrors == "yes":
            yield from self.starts(length, True)

    def _around(self, start: int, starts: list[int]) -> tuple[int, ...]:
        return tuple(other - start for other in starts if abs(other - start) < self.reach)


def mirror_sequence(first: Flips) -> list[Flips]:
    """Return `MAX_MIRRORS` mirrors from `first` on, each followed by its opposite, from which it differs most.

    Parameters
    ----------
    first : tuple of bool
        Axes (z, y, x) along which the first one is mirrored.

    Returns
    -------
    list of tuple of bool
        The mirrors.
    """
    found: list[Flips] = []
    for flips in (first, *ALL_FLIPS):
        if flips not in found:
            found += [flips, (not flips[0], not flips[1], not flips[2])]
    return found[:MAX_MIRRORS]


def window_stride(window: int, overlap: float) -> int:
    """Return the distance between windows.

    Parameters
    ----------
    window : int
        Edge of a window in voxels.
    overlap : float
        Overlap of neighbouring windows, in [0, 1).

    Returns
    -------
    int
        Distance in voxels, at least 1.

    Raises
    ------
    UsageError
        If the overlap is out of range.
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap {overlap} of windows: must be at least 0 and below 1", "try 0.5")
    return max(1, int(window * (1 - overlap)))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the starts of the windows along one axis: multiples of the stride, the last one clamped to the end.

    Parameters
    ----------
    length, window, stride : int
        In voxels. An axis shorter than the window has one window, at 0; the caller pads.

    Returns
    -------
    list of int
        Starts; a function of the length of the axis, never of a block.
    """
    if length <= window:
        return [0]
    starts = list(range(0, length - window, stride))
    return [*starts, length - window]

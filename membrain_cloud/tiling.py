"""The tiling of windows of a volume: where a network mirror_sequence, in which mirrors, and with which weights.

Everything here is a function of the volume's shape and of the settings, never of a block: that is what makes a result
independent of how the volume was cut.
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

    box : in the volume's voxels; it may reach beyond a volume that is thinner than the window.
    flips : axes (z, y, x) along which the network sees it mirrored.
    further : mirrors of further mirror_sequence, taken in this order as long as what was seen is undecided.
    copy : which of the averages it belongs to; averages of different mirrors can be kept apart.
    weight : what it counts for among the copies.
    neighbours : along z, y and x, the starts of its tiling's windows that overlap it (itself included), relative to
        its own: what its share of each voxel depends on.
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

    reach : a window's edge in the volume's voxels; the network sees as much, or that resampled to its own window.
    stride : distance of windows.
    mirrors : "no"; "yes": every window in all eight mirrors, each on the mirrored tiling, as flipping the whole volume
        does (MemBrain-seg's test-time augmentation); "adaptive": every window in one mirror, chosen by its place so
        that with an overlap of one half a voxel is seen in all eight, and in up to three further ones, the opposite
        one first, as long as voxels that count stay undecided.
    """

    reach: int
    stride: int
    mirrors: Mirrors

    @property
    def copies(self) -> int:
        return 8 if self.mirrors == "yes" else 1

    def windows(self, shape: Zyx, core: Box | None = None) -> list[Window]:
        """The windows of a volume that touch `core` (default: all), in the order in which they are added up."""
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
        """Windows of a whole volume, further mirror_sequence left out."""
        per_axis = [len(self.starts(n, False)) for n in shape]
        return self.copies * per_axis[0] * per_axis[1] * per_axis[2]

    def starts(self, length: int, flipped: bool) -> list[int]:
        """Starts along one axis; flipped: those of the mirrored axis, whose last, clamped window is the first.

        An axis shorter than the window lies in its middle, one voxel off by the mirror where that is uneven: there the
        starts are negative.
        """
        missing = max(self.reach - length, 0)
        starts = window_starts(max(length, self.reach), self.reach, self.stride)
        if flipped:
            return [length - self.reach - s + missing // 2 for s in reversed(starts)]
        return [s - missing // 2 for s in starts]

    def blocks(self, shape: Zyx, core_shape: Zyx) -> list[Block]:
        """Cut a volume into blocks: cores as given, halos as far as the windows that touch a core reach."""
        found: list[Block] = []
        for start in itertools.product(*(range(0, n, c) for n, c in zip(shape, core_shape, strict=True))):
            stop = tuple(min(a + c, n) for a, c, n in zip(start, core_shape, shape, strict=True))
            found.append(self.block(len(found), shape, Box(start, stop)))  # type: ignore[arg-type]
        return found

    def block(self, index: int, shape: Zyx, core: Box) -> Block:
        """A core with its halo: as far as the windows that touch it reach."""
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
    """`MAX_MIRRORS` mirrors from `first` on, each followed by its opposite: the two that differ most."""
    found: list[Flips] = []
    for flips in (first, *ALL_FLIPS):
        if flips not in found:
            found += [flips, (not flips[0], not flips[1], not flips[2])]
    return found[:MAX_MIRRORS]


def window_stride(window: int, overlap: float) -> int:
    """Distance between windows for an overlap in [0, 1). Raises UsageError outside."""
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap {overlap} of windows: must be at least 0 and below 1", "try 0.5")
    return max(1, int(window * (1 - overlap)))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along one axis: multiples of the stride, the last one clamped to the end.

    A function of the axis length alone, never of a block: this is what makes results independent of the cut.
    An axis shorter than the window has one window, at 0 (the caller pads).
    """
    if length <= window:
        return [0]
    starts = list(range(0, length - window, stride))
    return [*starts, length - window]

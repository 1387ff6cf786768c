"""Where windows are cut out, looked at and put together again: on the device, some planes of the volume at a time.

Voxels cross to the device once, logits come back once. Only as many planes are held as a window is deep (and what was
read ahead), so memory does not grow with the depth of the volume.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from membrain_cloud.geometry import Box
from membrain_cloud.lattice import ALL_FLIPS, MOST_LOOKS, Flips, Window

Forward = Callable[[Tensor], Tensor]
# MONAI's and so MemBrain-seg's: windows weigh as a Gaussian of an eighth of their edge, never less than 1e-3.
_SIGMA_FRACTION = 0.125
_LEAST_WEIGHT = 1e-3
# A window that varies less than this (in the tomogram's standard deviations) is void, and is not looked at.
_VOID_STD = 1e-3
_VOID_LOGIT = -10.0
# A window is looked at again while more than this part of its voxels is undecided: has a logit nearer to 0 than the
# margin, each voxel counted by its share in the average, and all by how much one look more can still move it.
_UNDECIDED_MARGIN = 1.0
_UNDECIDED_PART = 2e-3
_SHARES_BYTES = 64 * 2**20


class Canvas:
    """Paints logits window by window, from the first plane of a core to its last.

    forward : (B, 1, s, s, s) float32 on the device -> logits of the same shape, float32.
    device : where windows are looked at and added up.
    reach : edge s of the windows.  halo : what is fed, of the volume.  core : what is painted.
    mean, std : of the whole tomogram; windows are normalised by them.
    apart : keep the averages of the eight mirrors apart too, for their variance (nine times the memory).
    skip_void : leave out windows without any signal (their logit is -10).
    batch : windows a call of `forward`.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        *,
        reach: int,
        halo: Box,
        core: Box,
        mean: float,
        std: float,
        apart: bool,
        skip_void: bool,
        batch: int,
    ) -> None:
        self.forward, self.device = forward, device
        self.reach, self.halo, self.core = reach, halo, core
        self.mean, self.std, self.skip_void, self.batch = mean, std, skip_void, batch
        _, height, width = core.shape
        # The average first; then, where they are asked for, the mirrors'.
        self._total = torch.zeros((1 + len(ALL_FLIPS) if apart else 1, reach, height, width), device=device)
        self._first = 0
        self._read: deque[tuple[int, Tensor]] = deque()
        self._gauss = _gaussian(reach).to(device)
        self._shares: OrderedDict[tuple[tuple[int, ...], ...], Tensor] = OrderedDict()

    def start(self, plane: int) -> None:
        """The first plane that any window reaches; negative in a volume thinner than a window."""
        self._first = plane

    def feed(self, plane: int, voxels: NDArray[Any]) -> None:
        """Planes of the halo from `plane` on, of any real type: (n, height, width)."""
        if voxels.dtype not in (np.int8, np.uint8, np.int16, np.float16, np.float32):
            voxels = voxels.astype(np.float32)
        native = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("="))
        planes = torch.from_numpy(native)
        if self.device.type == "cuda":
            # From pinned memory, so that the copy goes on while windows before it are looked at; torch keeps that
            # memory from being used again until the copy is done.
            planes = planes.pin_memory()
        self._read.append((plane, planes.to(self.device, non_blocking=True)))

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        """Look at windows that all start within the planes held, and add up what is seen."""
        for k in range(0, len(windows), self.batch):
            group = windows[k : k + self.batch]
            self._paint(group)
            progress(len(group))

    def take(self, planes: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The next `planes` planes, finished: logits, and the variance of the sigmoid over the mirrors (ddof 1).

        (planes, height, width) float32 of the core's height and width; the variance is None unless kept apart.
        """
        depth = self._total.shape[1]
        at = [(self._first + k) % depth for k in range(planes)]
        done = self._total[:, at]
        self._total[:, at] = 0
        self._first += planes
        while self._read and self._read[0][0] + len(self._read[0][1]) <= self._first:
            self._read.popleft()
        variance = torch.var(torch.sigmoid(done[1:]), dim=0).cpu().numpy() if len(done) > 1 else None
        return done[0].cpu().numpy(), variance

    def _paint(self, windows: Sequence[Window]) -> None:
        seen = [self._cut(window.box) for window in windows]
        logits: list[Tensor | None] = [None] * len(windows)
        alive = self._with_signal(seen) if self.skip_void else list(range(len(windows)))
        for k, made in zip(alive, self._look(seen, alive, [windows[k].flips for k in alive]), strict=True):
            logits[k] = made
        for look in range(1, MOST_LOOKS):
            alive = self._undecided(windows, logits, [k for k in alive if len(windows[k].further) >= look], look)
            flips = [windows[k].further[look - 1] for k in alive]
            for k, made in zip(alive, self._look(seen, alive, flips), strict=True):
                mean = logits[k]
                assert mean is not None
                mean += (made - mean) / (look + 1)
        for window, made_of in zip(windows, logits, strict=True):
            self._add(window, made_of)

    def _with_signal(self, seen: Sequence[Tensor]) -> list[int]:
        spread = torch.stack([voxels.std() for voxels in seen]).tolist()
        return [k for k, std in enumerate(spread) if std >= _VOID_STD]

    def _undecided(
        self, windows: Sequence[Window], logits: Sequence[Tensor | None], which: list[int], looks: int
    ) -> list[int]:
        """Of `which`, the windows that one look more would change, after so many."""
        if not which:
            return []
        counts = []
        for k in which:
            inside, made = windows[k].box.intersection(self.halo), logits[k]
            assert inside is not None
            assert made is not None
            part = inside.within(windows[k].box)
            counts.append(torch.where(made[part].abs() < _UNDECIDED_MARGIN, self._share(windows[k])[part], 0.0).sum())
        allowed = _UNDECIDED_PART * self.reach**3 * looks**1.5
        return [k for k, count in zip(which, torch.stack(counts).tolist(), strict=True) if count > allowed]

    def _look(self, seen: list[Tensor], which: list[int], flips: list[Flips]) -> list[Tensor]:
        if not which:
            return []
        axes = [[axis for axis in range(3) if flip[axis]] for flip in flips]
        looked = self.forward(torch.stack([seen[k].flip(a) for k, a in zip(which, axes, strict=True)])[:, None])
        return [made.flip(a) for made, a in zip(looked[:, 0], axes, strict=True)]

    def _cut(self, box: Box) -> Tensor:
        """A window, normalised; zero (the mean) outside of the volume."""
        window = torch.zeros((self.reach,) * 3, device=self.device)
        inside = box.intersection(self.halo)
        assert inside is not None
        for plane, voxels in self._read:
            part = inside.intersection(Box((plane, *self.halo.start[1:]), (plane + len(voxels), *self.halo.stop[1:])))
            if part is not None:
                z, y, x = part.within(self.halo)
                z = slice(part.start[0] - plane, part.stop[0] - plane)
                window[part.within(box)] = (voxels[z, y, x].float() - self.mean) / self.std
        return window

    def _add(self, window: Window, logits: Tensor | None) -> None:
        common = window.box.intersection(self.core)
        if common is None:
            return
        inner = common.within(window.box)
        added = self._share(window)[inner] * (_VOID_LOGIT if logits is None else logits[inner])
        self._add_to(self._total[0], common, added * window.weight if window.weight != 1 else added)
        if len(self._total) > 1:
            self._add_to(self._total[1 + window.copy], common, added)

    def _add_to(self, total: Tensor, where: Box, added: Tensor) -> None:
        """The planes are a ring: a window is added in at most two pieces."""
        _, y, x = where.within(self.core)
        depth, done = len(total), 0
        while done < len(added):
            at = (where.start[0] + done) % depth
            count = min(len(added) - done, depth - at)
            total[at : at + count, y, x] += added[done : done + count]
            done += count

    def _share(self, window: Window) -> Tensor:
        """(s, s, s): the window's weight over the sum of the weights of all windows of its lattice there."""
        known = self._shares.get(window.neighbours)
        if known is not None:
            self._shares.move_to_end(window.neighbours)
            return known
        total = torch.zeros_like(self._gauss)
        for z in window.neighbours[0]:
            for y in window.neighbours[1]:
                for x in window.neighbours[2]:
                    here = tuple(slice(max(d, 0), self.reach + min(d, 0)) for d in (z, y, x))
                    there = tuple(slice(max(-d, 0), self.reach + min(-d, 0)) for d in (z, y, x))
                    total[here] += self._gauss[there]
        share = self._gauss / total
        self._shares[window.neighbours] = share
        while len(self._shares) > max(1, _SHARES_BYTES // (4 * self.reach**3)):
            self._shares.popitem(last=False)
        return share


def _gaussian(edge: int) -> Tensor:
    axis = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
    line = torch.exp(axis**2 / (-2 * (_SIGMA_FRACTION * edge) ** 2))
    return torch.clamp(line[:, None, None] * line[None, :, None] * line[None, None, :], min=_LEAST_WEIGHT)

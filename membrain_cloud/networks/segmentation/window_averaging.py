"""Cut windows out, predict and average them on the device, some planes of the volume at a time.

Voxels are copied to the device once, logits are copied back once. Only as many planes as a window is deep, and those
read ahead, are held, so memory does not grow with the depth of the volume.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from membrain_cloud.geometry import Box
from membrain_cloud.networks.segmentation.gpu.async_transfer import Later
from membrain_cloud.tiling import ALL_FLIPS, MAX_MIRRORS, Flips, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

Forward = Callable[[Tensor], Tensor]
# MONAI's and so MemBrain-seg's: windows weigh as a Gaussian of an eighth of their edge, never less than 1e-3.
_SIGMA_FRACTION = 0.125
_LEAST_WEIGHT = 1e-3
# A window that varies less than this (in the tomogram's standard deviations) is void, and is not looked at.
_VOID_STD = 1e-3
# Standard deviations beyond which a voxel is no measurement; larger ones would decide on the norm of a whole window.
_LARGEST = 100.0
_VOID_LOGIT = -10.0
# A window is looked at again while more than this part of its voxels is undecided: has a logit nearer to 0 than the
# margin, each voxel counted by its share in the average, and all by how much one look more can still move it.
_UNDECIDED_MARGIN = 1.0
_UNDECIDED_PART = 2e-3
_SHARES_BYTES = 64 * 2**20


def _sigmoid(logits: Tensor) -> Tensor:
    """Compute the sigmoid, on a CPU of each voxel alone.

    torch's vector instructions round the last elements of an array otherwise, so a variance would depend on how the
    volume was cut.
    """
    if logits.device.type != "cpu":
        return torch.sigmoid(logits)
    return torch.from_numpy(expit(logits.numpy()))


class _Seen:
    """A window in progress.

    Attributes
    ----------
    logits : Tensor or None
        Average of its predictions so far, in its own orientation; None before the first.
    numbers : Later
        On their way to the host: the deviations of its group, or the number of undecided voxels.
    """

    def __init__(self, window: Window, voxels: Tensor, most_looks: int) -> None:
        self.window, self.voxels, self.most_looks = window, voxels, most_looks
        self.logits: Tensor | None = None
        self.looks, self.finished = 0, False
        self.numbers: Later

    @property
    def flips(self) -> Flips:
        """Mirror of the next prediction."""
        return self.window.further[self.looks - 1] if self.looks else self.window.flips

    @property
    def may_look_on(self) -> bool:
        """Whether there are further mirrors."""
        return self.looks < self.most_looks and self.looks <= len(self.window.further)

    def add(self, logits: Tensor) -> None:
        """Add the logits of one mirror to the average."""
        self.looks += 1
        if self.logits is None:
            self.logits = logits
        else:
            self.logits += (logits - self.logits) / self.looks


class WindowAverager:
    """Averages logits window by window, from the first plane of a core to its last.

    Parameters
    ----------
    forward : callable
        Takes windows (B, 1, s, s, s), float32, on the device, and returns logits of that shape, float32.
    device : torch.device
        Where windows are predicted and averaged.
    reach : int
        Edge s of the windows in voxels.
    halo, core : Box
        Part of the volume that is read, and part that is computed.
    mean, std : float
        Of the whole tomogram, for normalisation.
    symmetric : bool
        Whether `forward` gives a mirrored window the mirrored logits, so that one prediction is enough.
    variance : bool
        Whether the variance of the probability over the mirrors is computed too. The averages of the mirrors are then
        kept separate, which takes nine times the memory; a symmetric `forward` has p (1 - p) instead.
    skip_void : bool
        Whether windows without any signal are left out; their logit is -10.
    batch : int
        Windows of a call of `forward`.
    """

    def __init__(  # noqa: PLR0913 - one keyword a property of the tomogram, the block and the network
        self,
        forward: Forward,
        device: torch.device,
        *,
        reach: int,
        halo: Box,
        core: Box,
        mean: float,
        std: float,
        symmetric: bool,
        variance: bool,
        skip_void: bool,
        batch: int,
    ) -> None:
        self.forward, self.device = forward, device
        self.reach, self.halo, self.core = reach, halo, core
        self.mean, self.std, self.skip_void, self.batch = mean, std, skip_void, batch
        _, height, width = core.shape
        # The average first; then, where they are asked for, the mirrors'.
        apart = variance and not symmetric
        self._total = torch.zeros((1 + len(ALL_FLIPS) if apart else 1, reach, height, width), device=device)
        self._variance, self._most_looks = variance, 1 if symmetric else MAX_MIRRORS
        self._first = 0
        self._read: deque[tuple[int, Tensor]] = deque()
        self._gauss = _gaussian(reach).to(device)
        # Groups of windows on their way at once.
        self._ahead = 1 if device.type == "cpu" else 2
        self._shares: OrderedDict[tuple[tuple[int, ...], ...], Tensor] = OrderedDict()

    def start(self, plane: int) -> None:
        """Begin at the first plane that any window reaches; negative in a volume thinner than a window.

        Parameters
        ----------
        plane : int
            Plane of the volume.
        """
        self._first = plane

    def feed(self, plane: int, voxels: NDArray[Any]) -> None:
        """Take planes of the halo.

        Parameters
        ----------
        plane : int
            First of them.
        voxels : ndarray, shape (n, Y, X), any real dtype
            Their voxels.
        """
        if voxels.dtype not in (np.int8, np.uint8, np.int16, np.float16, np.float32):
            voxels = voxels.astype(np.float32)
        # torch warns of arrays that cannot be written, such as those of a memory map.
        native = np.require(voxels, voxels.dtype.newbyteorder("="), ("C", "W"))
        planes = torch.from_numpy(native)
        if self.device.type == "cuda":
            # From pinned memory, so that the copy overlaps with the prediction of earlier windows; torch does not
            # reuse that memory until the copy is done.
            planes = planes.pin_memory()
        self._read.append((plane, planes.to(self.device, non_blocking=True)))

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        """Predict windows that all start within the planes held, and add their logits up in order.

        On a GPU the next windows are sent to the network before the results of the last ones are read, so that it does
        not wait for decisions of the host.

        Parameters
        ----------
        windows : sequence of Window
            The windows.
        progress : callable
            Called with numbers of windows, as they are finished.
        """
        fresh, again = deque(windows), deque[_Seen]()
        cut, flying, order = deque[list[_Seen]](), deque[list[_Seen]](), deque[_Seen]()
        while fresh or cut or again or flying:
            while fresh and len(cut) < self._ahead:
                cut.append(self._cut_group([fresh.popleft() for _ in range(min(self.batch, len(fresh)))]))
                order.extend(cut[-1])
            if again:
                group = [again.popleft() for _ in range(min(self.batch, len(again)))]
            else:
                group = self._without_void(cut.popleft()) if cut else []
            if group:
                self._look([seen for seen in group if not seen.finished])
                flying.append(group)
            if flying and (not group or len(flying) == self._ahead):
                again.extend(self._undecided(flying.popleft()))
            while order and order[0].finished:
                self._add(order.popleft())
                progress(1)

    def _cut_group(self, windows: Sequence[Window]) -> list[_Seen]:
        """Cut out some windows; where empty ones are skipped, start copying their deviations to the host."""
        group = [self._cut(window) for window in windows]
        if self.skip_void:
            self._note(group, [seen.voxels.std() for seen in group])
        return group

    def _without_void(self, group: list[_Seen]) -> list[_Seen]:
        """Mark the windows without signal as finished."""
        if self.skip_void:
            for seen, std in zip(group, group[0].numbers.wait(), strict=True):
                seen.finished = std < _VOID_STD
        return group

    def take(self, planes: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the next planes, which are finished.

        Parameters
        ----------
        planes : int
            Number of planes n.

        Returns
        -------
        ndarray, shape (n, Y, X), float32
            Logits, of the height and width of the core.
        ndarray, shape (n, Y, X), float32, or None
            Variance over the mirrors (ddof 1), where it is computed.
        """
        depth = self._total.shape[1]
        at = [(self._first + k) % depth for k in range(planes)]
        done = self._total[:, at]
        self._total[:, at] = 0
        self._first += planes
        while self._read and self._read[0][0] + len(self._read[0][1]) <= self._first:
            self._read.popleft()
        made = [done[0]]
        if self._variance:
            probability = _sigmoid(done)
            several = len(probability) > 1
            made.append(torch.var(probability[1:], dim=0) if several else (probability * (1 - probability))[0])
        logits, *variance = (later.array() for later in [Later(values) for values in made])
        return logits, variance[0] if variance else None

    def _look(self, group: list[_Seen]) -> None:
        """Predict one mirror more of each window, and count its undecided voxels."""
        if not group:
            return
        axes = [[axis for axis in range(3) if seen.flips[axis]] for seen in group]
        looked = self.forward(torch.stack([seen.voxels.flip(a) for seen, a in zip(group, axes, strict=True)])[:, None])
        counts = []
        for seen, made, flipped in zip(group, looked[:, 0], axes, strict=True):
            seen.add(made.flip(flipped))
            if seen.may_look_on:
                counts.append(self._undecided_voxels(seen))
        if counts:
            self._note([seen for seen in group if seen.may_look_on], counts)

    def _undecided(self, group: list[_Seen]) -> list[_Seen]:
        """Return the windows of a group that one mirror more would change; the others are finished."""
        group = [seen for seen in group if not seen.finished]
        open_ones = [seen for seen in group if seen.may_look_on]
        counts = dict(zip(map(id, open_ones), open_ones[0].numbers.wait() if open_ones else [], strict=True))
        for seen in group:
            allowed = _UNDECIDED_PART * self.reach**3 * seen.looks**1.5
            seen.finished = counts.get(id(seen), 0.0) <= allowed
        return [seen for seen in group if not seen.finished]

    def _undecided_voxels(self, seen: _Seen) -> Tensor:
        inside, logits = seen.window.box.intersection(self.halo), seen.logits
        assert inside is not None
        assert logits is not None
        part = inside.within(seen.window.box)
        return torch.where(logits[part].abs() < _UNDECIDED_MARGIN, self._share(seen.window)[part], 0.0).sum()

    @staticmethod
    def _note(group: list[_Seen], values: list[Tensor]) -> None:
        """Start copying values of the windows of a group to the host."""
        numbers = Later(torch.stack(values))
        for seen in group:
            seen.numbers = numbers

    def _cut(self, window: Window) -> _Seen:
        """Cut out a window and normalise it; outside of the volume it is 0, the mean."""
        box, voxels = window.box, torch.zeros((self.reach,) * 3, device=self.device)
        inside = box.intersection(self.halo)
        assert inside is not None
        for plane, planes in self._read:
            part = inside.intersection(Box((plane, *self.halo.start[1:]), (plane + len(planes), *self.halo.stop[1:])))
            if part is not None:
                z, y, x = part.within(self.halo)
                z = slice(part.start[0] - plane, part.stop[0] - plane)
                normalised = (planes[z, y, x].float() - self.mean) / self.std
                voxels[part.within(box)] = normalised.clamp(-_LARGEST, _LARGEST)
        return _Seen(window, voxels, self._most_looks)

    def _add(self, seen: _Seen) -> None:
        window, logits = seen.window, seen.logits
        common = window.box.intersection(self.core)
        if common is None:
            return
        inner = common.within(window.box)
        added = self._share(window)[inner] * (_VOID_LOGIT if logits is None else logits[inner])
        self._add_to(self._total[0], common, added * window.weight if window.weight != 1 else added)
        if len(self._total) > 1:
            self._add_to(self._total[1 + window.copy], common, added)

    def _add_to(self, total: Tensor, where: Box, added: Tensor) -> None:
        """Add values to the ring of planes, in at most two parts."""
        _, y, x = where.within(self.core)
        depth, done = len(total), 0
        while done < len(added):
            at = (where.start[0] + done) % depth
            count = min(len(added) - done, depth - at)
            total[at : at + count, y, x] += added[done : done + count]
            done += count

    def _share(self, window: Window) -> Tensor:
        """Return the window's weight over the sum of the weights of all windows there, (s, s, s)."""
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

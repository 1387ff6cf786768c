"""The weighted mean shift of `picking.clustering` on a device of torch, such as a GPU.

Memory is linear in the points: neighbours are found in cells, and pairs are processed in portions of bounded size,
never as a matrix of all pairs. Sums have one order: the same input gives the same result. It was tested on torch's CPU
device only.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAIRS_AT_ONCE = {"cpu": 1_000_000, "cuda": 16_000_000}
_STOP = 1e-3  # of the bandwidth: mean movement at which it ends


class DeviceMeanShift:
    """`picking.clustering.mean_shift` on a device, in double precision.

    Parameters
    ----------
    device : str
        Device of torch.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(
        self,
        points: NDArray[np.float64],
        scores: NDArray[np.floating],
        *,
        bandwidth_angstrom: float,
        max_iterations: int,
    ) -> NDArray[np.float64]:
        """Shift seeds to the weighted means of their surroundings until they stay.

        Parameters
        ----------
        points : ndarray, shape (N, 3), float64
            Positions, xyz in Å.
        scores : ndarray, shape (N,), floating
            Scores; lower ones weigh more.
        bandwidth_angstrom : float
            Radius of the surroundings in Å.
        max_iterations : int
            Largest number of shifts.

        Returns
        -------
        ndarray, shape (N, 3), float64
            Where the seeds end, xyz in Å.
        """
        if not len(points):
            return np.array(points, np.float64)
        cells = _Cells(points, scores, bandwidth_angstrom, self.device)
        seeds = torch.from_numpy(np.asarray(points, np.float64) - cells.origin).to(self.device)
        for _ in range(max_iterations):
            moved = cells.means_around(seeds)
            shift = float((moved - seeds).norm(dim=1).mean())
            seeds = moved
            if shift < _STOP * bandwidth_angstrom:
                break
        found: NDArray[np.float64] = seeds.cpu().numpy() + cells.origin
        return found


class _Cells:
    """Points sorted into cubes of the bandwidth's size; the cubes of a row along z have consecutive codes."""

    def __init__(
        self, points: NDArray[np.float64], scores: NDArray[np.floating], reach: float, device: torch.device
    ) -> None:
        self.reach, self.device = reach, device
        self.origin = np.asarray(points, np.float64).min(axis=0)
        places = torch.from_numpy(np.asarray(points, np.float64) - self.origin).to(device)
        importance = torch.from_numpy(np.clip(10.0 - np.asarray(scores, np.float64), 0.01, 10.0) + 0.05).to(device)
        cell = (places / reach).long()
        self.extent = cell.max(dim=0).values + 1
        codes, order = torch.sort(self._code(cell), stable=True)
        self.codes, self.points, self.weights = codes, places[order], importance[order]

    def _code(self, cell: Tensor) -> Tensor:
        return (cell[..., 0] * self.extent[1] + cell[..., 1]) * self.extent[2] + cell[..., 2]

    def means_around(self, seeds: Tensor) -> Tensor:
        """Return each seed's weighted mean of the points within reach, (N, 3); the seed where there are none."""
        begins, ends = self._runs(seeds)
        pairs = (ends - begins).sum(dim=1)
        bounds = pairs.cumsum(0)
        moved, start = [], 0
        while start < len(seeds):
            done = int(bounds[start - 1]) if start else 0
            most = done + _PAIRS_AT_ONCE[self.device.type]
            stop = max(start + 1, int(torch.searchsorted(bounds, most, right=True)))
            moved.append(self._means(seeds[start:stop], begins[start:stop], ends[start:stop], pairs[start:stop]))
            start = stop
        return torch.cat(moved)

    def _runs(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the points of the nine rows of three cubes around each seed begin and end, (N, 9) each."""
        cell = (seeds / self.reach).long()
        low, high = (cell[:, 2] - 1).clamp(min=0), torch.minimum(cell[:, 2] + 1, self.extent[2] - 1)
        begins, ends = [], []
        for dx, dy in product((-1, 0, 1), repeat=2):
            x, y = cell[:, 0] + dx, cell[:, 1] + dy
            inside = (x >= 0) & (y >= 0) & (x < self.extent[0]) & (y < self.extent[1])
            begin = torch.searchsorted(self.codes, self._code(torch.stack([x, y, low], dim=1)))
            end = torch.searchsorted(self.codes, self._code(torch.stack([x, y, high], dim=1)), right=True)
            begins.append(torch.where(inside, begin, 0))
            ends.append(torch.where(inside, end, 0))
        return torch.stack(begins, dim=1), torch.stack(ends, dim=1)

    def _means(self, seeds: Tensor, begins: Tensor, ends: Tensor, pairs: Tensor) -> Tensor:
        owner = torch.repeat_interleave(torch.arange(len(seeds), device=self.device), pairs)
        lengths = (ends - begins).flatten()
        before = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum()), device=self.device)
        point = within + torch.repeat_interleave(begins.flatten() - before, lengths)
        places = self.points[point]
        near = (self.reach - (places - seeds[owner]).norm(dim=1)).clamp(min=0.0)
        weight = near * self.weights[point]
        sums = torch.segment_reduce(
            torch.cat([weight[:, None] * places, weight[:, None]], dim=1), "sum", lengths=pairs, axis=0
        )
        total = sums[:, 3:]
        return torch.where(total > 0, sums[:, :3] / total.clamp(min=1e-300), seeds)

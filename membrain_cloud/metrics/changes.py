"""Changes between two sets of membranes or particles; neither is taken as the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

# Two membranes belong together where the smaller one shares at least this part of its voxels: touching rims do not.
SHARED_PART = 0.2
# Pairs of labels are counted in a table of at most this many entries.
_LARGEST_TABLE = 2**22


@dataclass
class Overlap:
    """Voxels of each pair of labels (first, second), with 0 for background. It adds up over the parts of a volume."""

    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Count two label arrays.

        Parameters
        ----------
        first, second : ndarray, shape (Z, Y, X), integer
            Labels of the same voxels.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(f"shapes {first.shape} and {second.shape} differ")
        either = (first != 0) | (second != 0)
        a, b = first[either], second[either]
        if not len(a):
            return
        for key, count in _pair_counts(a, b):
            self.counts[key] += count

    @property
    def voxels(self) -> tuple[int, int, int]:
        """Voxels that are membrane in the first, in the second, and in both."""
        first = sum(count for (a, _), count in self.counts.items() if a)
        second = sum(count for (_, b), count in self.counts.items() if b)
        return first, second, sum(count for (a, b), count in self.counts.items() if a and b)

    @property
    def dice(self) -> float:
        """Dice overlap of both foregrounds; 1 for two empty ones."""
        first, second, both = self.voxels
        return 2.0 * both / (first + second) if first + second else 1.0


@dataclass(frozen=True)
class MembraneChanges:
    """What became of the membranes of the first set in the second; numbers are labels.

    Attributes
    ----------
    matched : tuple
        Pairs (first, second).
    split, merged, mixed : tuple
        One to several, several to one, several to several.
    gone, new : tuple of int
        Membranes of the first and of the second set without a partner.
    """

    matched: tuple[tuple[int, int], ...]
    split: tuple[tuple[int, tuple[int, ...]], ...]
    merged: tuple[tuple[tuple[int, ...], int], ...]
    mixed: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    gone: tuple[int, ...]
    new: tuple[int, ...]


def membrane_changes(overlap: Overlap) -> MembraneChanges:
    """Group the membranes of both sets by the voxels that they share.

    Parameters
    ----------
    overlap : Overlap
        Voxels of each pair of labels. Two membranes belong together where they share `SHARED_PART` of the smaller one.

    Returns
    -------
    MembraneChanges
        The groups, by kind.
    """
    sizes_a, sizes_b = _sizes(overlap.counts, 0), _sizes(overlap.counts, 1)
    a_numbers, b_numbers = sorted(sizes_a), sorted(sizes_b)
    a_at, b_at = ({number: i for i, number in enumerate(numbers)} for numbers in (a_numbers, b_numbers))
    edges = [
        (a_at[a], len(a_numbers) + b_at[b])
        for (a, b), count in overlap.counts.items()
        if a and b and count >= SHARED_PART * min(sizes_a[a], sizes_b[b])
    ]
    total = len(a_numbers) + len(b_numbers)
    rows, columns = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), np.int8), (rows, columns)), shape=(total, total))
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for i, group in enumerate(connected_components(graph, directed=False)[1].tolist() if total else ()):
        side = groups.setdefault(group, ([], []))
        side[i >= len(a_numbers)].append(a_numbers[i] if i < len(a_numbers) else b_numbers[i - len(a_numbers)])
    return _sorted_out([(tuple(first), tuple(second)) for first, second in groups.values()])


def _sizes(counts: Mapping[tuple[int, int], int], side: int) -> dict[int, int]:
    sizes: Counter[int] = Counter()
    for labels, count in counts.items():
        if labels[side]:
            sizes[labels[side]] += count
    return sizes


def _sorted_out(groups: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> MembraneChanges:
    groups = sorted(groups)
    return MembraneChanges(
        matched=tuple((a[0], b[0]) for a, b in groups if len(a) == len(b) == 1),
        split=tuple((a[0], b) for a, b in groups if len(a) == 1 and len(b) > 1),
        merged=tuple((a, b[0]) for a, b in groups if len(a) > 1 and len(b) == 1),
        mixed=tuple((a, b) for a, b in groups if len(a) > 1 and len(b) > 1),
        gone=tuple(a[0] for a, b in groups if len(a) == 1 and not b),
        new=tuple(b[0] for a, b in groups if len(b) == 1 and not a),
    )


def matched_points(
    first: NDArray[np.float64], second: NDArray[np.float64], radius_angstrom: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Match points one to one within a radius, nearest pairs first.

    Parameters
    ----------
    first : ndarray, shape (N, 3), float64
        Points, xyz in Å.
    second : ndarray, shape (M, 3), float64
        Points, xyz in Å.
    radius_angstrom : float
        Largest distance of a pair in Å.

    Returns
    -------
    ndarray, shape (K, 2), int64
        Indices of the pairs, nearest first.
    ndarray, shape (K,), float64
        Their distances in Å.
    """
    if not len(first) or not len(second):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    near = cKDTree(first).sparse_distance_matrix(cKDTree(second), radius_angstrom, output_type="coo_matrix")
    order = np.lexsort((near.col, near.row, near.data))
    free_first, free_second = np.ones(len(first), bool), np.ones(len(second), bool)
    taken = []
    for k in order:
        i, j = near.row[k], near.col[k]
        if free_first[i] and free_second[j]:
            free_first[i] = free_second[j] = False
            taken.append(k)
    pairs = np.stack([near.row[taken], near.col[taken]], axis=1).astype(np.int64).reshape(-1, 2)
    return pairs, near.data[taken]


def _pair_counts(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield each pair of labels with its number of voxels.

    A table of all pairs takes a tenth of the time of sorting them. Where it would be too large, labels are numbered.
    """
    names: list[NDArray[Any]] = []
    ends = [int(values.max()) + 1 for values in (a, b)]
    if ends[0] * ends[1] > _LARGEST_TABLE:
        (first, a), (second, b) = (np.unique(values, return_inverse=True) for values in (a, b))
        names, ends = [first, second], [len(first), len(second)]
    numbers = a.astype(np.int64) * ends[1] + b.astype(np.int64)
    if ends[0] * ends[1] > _LARGEST_TABLE:
        pairs, counts = np.unique(numbers, return_counts=True)
    else:
        table = np.bincount(numbers)
        pairs = np.flatnonzero(table)
        counts = table[pairs]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        one, other = divmod(pair, ends[1])
        yield (int(names[0][one]), int(names[1][other])) if names else (one, other), count

"""Curves made of counts of pairs: Ripley's K, L and O and the pair correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Ripley:
    """Curves over B bins. NaN where the surface has no area in a bin.

    r_nm : (B,) upper ends of the bins, where K and L hold; the pair correlation and O hold for the bin below.
    pair_correlation : (B,) g, 1 at random.
    o_per_nm2 : (B,) the O-ring statistic (Wiegand and Moloney, Oikos 104, 2004): particles per nm² at this distance.
    k_nm2 : (B,) Ripley's K, observed.  random_k_nm2 : (B,) K of particles at random on these very surfaces, with their
        bends, ends and parts; πr² on an endless plane.
    l_minus_r_nm : (B,) √(K/π) - √(random K/π), 0 at random; on an endless plane the usual L(r) - r.
    """

    r_nm: NDArray[np.float64]
    pair_correlation: NDArray[np.float64]
    o_per_nm2: NDArray[np.float64]
    k_nm2: NDArray[np.float64]
    random_k_nm2: NDArray[np.float64]
    l_minus_r_nm: NDArray[np.float64]


def ripley_from_pair_counts(pair_counts: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any]]) -> Ripley:
    """Pool rows of the table `pair_counts`, of one kind of particle or pair of kinds, and of any number of membranes.

    pair_counts : rows, or columns of equal length: bin, r_max_nm, n_pairs, area_sum_nm2, expected_pairs, n_start. Rows
        of `binned_pair_counts` of one bin of a property do as well.
    Bins must mean the same in all rows: ValueError otherwise.

        g = Σ n_pairs / Σ expected_pairs          K = cumulated Σ n_pairs / Σ (density of targets x n_start)
        O = Σ n_pairs / Σ area_sum
    """
    names = ("bin", "r_max_nm", "n_pairs", "area_sum_nm2", "expected_pairs", "n_start")
    if not isinstance(pair_counts, Mapping):
        pair_counts = {name: [row[name] for row in pair_counts] for name in names}
    columns = {name: np.asarray(pair_counts[name], np.float64) for name in names}
    bins, first, row_bin = np.unique(columns["bin"].astype(np.int64), return_index=True, return_inverse=True)
    r = columns["r_max_nm"][first]
    if not np.allclose(columns["r_max_nm"], r[row_bin]) or bins.tolist() != list(range(len(bins))):
        raise ValueError("the rows have different bins: pool only what was counted with one bin width and cut-off")

    def pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row_bin, values, minlength=len(bins)).astype(np.float64)

    area = columns["area_sum_nm2"]
    density = np.divide(columns["expected_pairs"], area, out=np.zeros_like(area), where=area > 0)
    counted, expected = pooled(columns["n_pairs"]), pooled(columns["expected_pairs"])
    # A density can be read only from bins with area; the first bin, about the particle itself, always has some.
    centres = np.full(len(bins), pooled(density * columns["n_start"])[0] if len(bins) else 0.0)
    k = _ratio(np.cumsum(counted), centres)
    random_k = _ratio(np.cumsum(expected), centres)
    difference = np.sqrt(k / np.pi) - np.sqrt(random_k / np.pi)
    return Ripley(r, _ratio(counted, expected), _ratio(counted, pooled(area)), k, random_k, difference)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)

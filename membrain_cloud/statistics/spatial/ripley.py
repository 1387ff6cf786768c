"""Ripley's K and L, the O-ring statistic and the pair correlation, from counts of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Ripley:
    """Curves over B bins of distance; NaN where the surface has no area in a bin.

    Parameters
    ----------
    r_nm : (B,) float64 array
        Upper ends of the bins, nm. K and L hold at this distance, g and O for the bin below it.
    pair_correlation : (B,) float64 array
        Pair correlation g; 1 at random.
    o_per_nm2 : (B,) float64 array
        O-ring statistic: particles per nm² at this distance from a particle.
    k_nm2 : (B,) float64 array
        Ripley's K as observed, nm².
    random_k_nm2 : (B,) float64 array
        K of particles at random on the same surfaces, with their curvature, ends and components, nm²; πr² on an
        infinite plane.
    l_minus_r_nm : (B,) float64 array
        √(K/π) - √(random K/π), nm; 0 at random. On an infinite plane this is the usual L(r) - r.

    References
    ----------
    Wiegand and Moloney, Oikos 104, 2004 (the O-ring statistic).
    """

    r_nm: NDArray[np.float64]
    pair_correlation: NDArray[np.float64]
    o_per_nm2: NDArray[np.float64]
    k_nm2: NDArray[np.float64]
    random_k_nm2: NDArray[np.float64]
    l_minus_r_nm: NDArray[np.float64]


def ripley_from_pair_counts(pair_counts: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any]]) -> Ripley:
    """Pool rows of the table `pair_counts` and compute their curves.

    The rows are of one kind of particle, or one pair of kinds, and of any number of membranes. Sums are taken first:

        g = Σ n_pairs / Σ expected_pairs          K = cumulated Σ n_pairs / Σ (density of targets x n_start)
        O = Σ n_pairs / Σ area_sum

    Parameters
    ----------
    pair_counts : mapping of str to (N,) array, or sequence of N mappings
        Columns of equal length, or rows: `bin`, `r_max_nm`, `n_pairs`, `area_sum_nm2`, `expected_pairs`, `n_start`.
        Rows of `binned_pair_counts` of one bin of a property will do as well.

    Returns
    -------
    Ripley
        The curves, one value a bin.

    Raises
    ------
    ValueError
        If the bins differ between rows.
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
    # The density follows only from bins with area; the first bin, around the particle itself, always has some.
    centres = np.full(len(bins), pooled(density * columns["n_start"])[0] if len(bins) else 0.0)
    k = _ratio(np.cumsum(counted), centres)
    random_k = _ratio(np.cumsum(expected), centres)
    difference = np.sqrt(k / np.pi) - np.sqrt(random_k / np.pi)
    return Ripley(r, _ratio(counted, expected), _ratio(counted, pooled(area)), k, random_k, difference)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where the denominator is not above 0."""
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient

"""Curves over distance from summed pair counts: observed ones, random ones, and a test of the difference."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from membrain_cloud.errors import UsageError
from membrain_cloud.statistics.spatial.ripley import ripley_from_pair_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = ("bin", "r_max_nm", "n_pairs", "area_sum_nm2", "expected_pairs", "n_start")
CURVES = ("g", "k_nm2", "l_minus_r_nm")
"""The curves that envelopes are computed of."""

Floats = NDArray[np.float64]
# Statistics of two patterns are tied if they differ by at most this share.
TIE = 1e-9


class Curve:
    """Pair counts summed over rows of one pair of kinds, and the curves of B bins that they give.

    Parameters
    ----------
    rows : DataFrame
        Rows of `pair_counts`, or of `binned_pair_counts` of one bin of a property.

    Attributes
    ----------
    r_min, r : (B,) float64 array
        Lower and upper ends of the bins, nm.
    g : (B,) float64 array
        Pair correlation.
    o : (B,) float64 array
        O-ring statistic, particles per nm².
    k, random_k : (B,) float64 array
        Ripley's K as observed, and at random on the same surfaces, nm².
    l_minus_r : (B,) float64 array
        √(K/π) less that at random, nm.
    counted, expected : (B,) float64 array
        Ordered pairs as observed, and expected at random.
    n_simulations : int or None
        Simulations that all rows have; None if the rows do not tell.

    Raises
    ------
    UsageError
        If the bins differ between rows.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        try:
            ripley = ripley_from_pair_counts({name: rows[name].to_numpy() for name in _COLUMNS})
        except ValueError as error:
            raise UsageError(str(error), "group by digest, or choose the rows of one run with `where`") from error
        total = rows.groupby("bin")[["n_pairs", "expected_pairs"]].sum()
        self.r_min = rows.groupby("bin")["r_min_nm"].first().to_numpy(float)
        self.r, self.g, self.o = ripley.r_nm, ripley.pair_correlation, ripley.o_per_nm2
        self.k, self.random_k, self.l_minus_r = ripley.k_nm2, ripley.random_k_nm2, ripley.l_minus_r_nm
        self.counted = total["n_pairs"].to_numpy(float)
        self.expected = total["expected_pairs"].to_numpy(float)
        told = rows["n_simulations"] if "n_simulations" in rows else pd.Series(dtype=float)
        self.n_simulations = int(told.min()) if len(told) and told.notna().all() else None

    @property
    def per_k(self) -> Floats:
        """K of one pair, (B,) nm²: K is the cumulated count times this."""
        total: Floats = np.cumsum(self.expected)
        per_k: Floats = np.zeros_like(total)
        np.divide(self.random_k, total, out=per_k, where=total > 0)
        return per_k

    def frame(self) -> pd.DataFrame:
        """Return the curves as a frame, one row a bin."""
        return pd.DataFrame(
            {
                "r_min_nm": self.r_min,
                "r_max_nm": self.r,
                "n_pairs": self.counted.astype(int),
                "expected_pairs": self.expected,
                "g": self.g,
                "o_per_um2": self.o * 1e6,
                "k_nm2": self.k,
                "random_k_nm2": self.random_k,
                "l_minus_r_nm": self.l_minus_r,
            }
        )


class RandomCurves:
    """The same curves for each of S simulations.

    Parameters
    ----------
    curve : Curve
        The observed curve of B bins.
    rows : DataFrame or None
        Rows of `random_pair_counts`; None if there are none. The number of simulations is that of the curve; a
        simulation without rows has no pairs. If the curve does not know it, it is the highest number in the rows.

    Attributes
    ----------
    g, k_nm2, l_minus_r_nm : (S, B) float64 array
        The curves of the simulations; S is 0 without rows.
    """

    def __init__(self, curve: Curve, rows: pd.DataFrame | None) -> None:
        n_rows = 0 if rows is None else len(rows)
        simulation = rows["simulation"].to_numpy(int) if rows is not None and n_rows else np.zeros(0, int)
        n_simulations = curve.n_simulations
        if n_simulations is None:
            n_simulations = int(simulation.max(initial=-1)) + 1
        counts = np.zeros((n_simulations, len(curve.r)))
        if rows is not None and n_rows:
            # Of membranes with different numbers of simulations, only those count that all of them have.
            used = simulation < n_simulations
            places = (simulation[used], rows["bin"].to_numpy(int)[used])
            np.add.at(counts, places, rows["n_pairs"].to_numpy(float)[used])
        self.g = counts / np.where(curve.expected > 0, curve.expected, np.nan)
        self.k_nm2 = np.cumsum(counts, axis=1) * curve.per_k
        self.l_minus_r_nm = np.sqrt(self.k_nm2 / np.pi) - np.sqrt(curve.random_k / np.pi)

    def envelopes(self, level: float) -> dict[str, Floats | float]:
        """Compute pointwise envelopes.

        Parameters
        ----------
        level : float
            Share of random patterns inside the envelope at each distance, e.g. 0.95.

        Returns
        -------
        dict of str to (B,) float64 array or float
            `<curve>_low` and `<curve>_high` for each of `CURVES`; NaN without simulations.
        """
        limits: dict[str, Floats | float] = {}
        for name in CURVES:
            values = getattr(self, name)
            for tail, share in (("low", (1.0 - level) / 2.0), ("high", (1.0 + level) / 2.0)):
                limits[f"{name}_{tail}"] = _quantile(values, share) if len(values) else np.nan
        return limits


def significance(curve: Curve, random: RandomCurves, r_min_nm: float, r_max_nm: float) -> dict[str, Any]:
    """Test a curve against complete spatial randomness.

    The statistic is the largest distance of L from the mean L of all other patterns, over a range of distances. It is
    computed for the observed pattern and for each simulation, so one p-value holds for all distances.

    With few pairs several patterns have the same statistic. Ties are broken at random, so that p is uniform at random;
    the random number follows from the counts, so the same rows give the same p.

    Parameters
    ----------
    curve : Curve
        The observed curve.
    random : RandomCurves
        The curves of the simulations.
    r_min_nm, r_max_nm : float
        Range of distances, nm.

    Returns
    -------
    dict
        `n_simulations`; `p`; `p_conservative`, with all ties counted against the observation; `direction`, "clustered"
        or "spaced"; and `r_nm`, where the difference is largest. Without simulations, the p-values and r_nm are NaN and
        direction is None.

    References
    ----------
    Loosmore and Ford, Ecology 87(8), 2006.
    """
    simulated = random.l_minus_r_nm
    in_range = (curve.r > r_min_nm) & (curve.r <= r_max_nm)
    unknown = {
        "n_simulations": len(simulated),
        "p": np.nan,
        "p_conservative": np.nan,
        "direction": None,
        "r_nm": np.nan,
    }
    if not len(simulated) or not in_range.any():
        return unknown
    patterns = np.nan_to_num(np.vstack([curve.l_minus_r, simulated])[:, in_range])
    difference = patterns - (patterns.sum(axis=0) - patterns) / (len(patterns) - 1)
    largest = np.abs(difference).max(axis=1)
    at = int(np.abs(difference[0]).argmax())
    larger = int((largest > largest[0] * (1.0 + TIE)).sum())
    not_smaller = int((largest >= largest[0] * (1.0 - TIE)).sum())  # itself included
    rng = np.random.default_rng(int.from_bytes(sha256(patterns.tobytes()).digest()[:8], "big"))
    return unknown | {
        "p": float(rng.integers(larger + 1, not_smaller + 1)) / len(largest),
        "p_conservative": not_smaller / len(largest),
        "direction": "clustered" if difference[0, at] > 0.0 else "spaced",
        "r_nm": float(curve.r[in_range][at]),
    }


def share_at_least(observed: float, simulated: Sequence[float] | Floats) -> float:
    """Compute a one-sided Monte Carlo p-value.

    Parameters
    ----------
    observed : float
        The observed value. It counts as one of the simulations, so p is never 0.
    simulated : sequence of float, or (S,) float64 array
        The values of the simulations.

    Returns
    -------
    float
        Share of values at least as large as the observed one; NaN without simulations.

    Examples
    --------
    >>> share_at_least(3.0, [1.0, 2.0, 3.0])
    0.5
    """
    values = np.asarray(simulated, float)
    return float((1 + (values >= observed).sum()) / (1 + len(values))) if len(values) else np.nan


def _quantile(values: Floats, share: float) -> Floats:
    """Return the quantile at rank share x (S + 1) of S simulations, (B,).

    A further simulation lies below it with probability `share`.
    """
    ordered = np.sort(values, axis=0)
    rank = np.clip(share * (len(values) + 1) - 1.0, 0.0, len(values) - 1.0)
    below = int(rank)
    above = min(below + 1, len(values) - 1)
    return np.asarray(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))


def with_simulation_counts(observed: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """Return observed pair counts with `n_simulations`, which rows of an older version lack.

    Parameters
    ----------
    observed : DataFrame
        Rows of `pair_counts`.
    random : DataFrame
        Rows of `random_pair_counts`; their highest simulation gives the number for rows without one.

    Returns
    -------
    DataFrame
        A copy of `observed` without gaps in `n_simulations`.
    """
    highest = int(random["simulation"].max()) + 1 if len(random) else 0
    stored = observed["n_simulations"] if "n_simulations" in observed else pd.Series(np.nan, observed.index)
    return observed.assign(n_simulations=stored.fillna(highest))

"""Curves over distance made of summed pair counts: observed, at random, and how the one lies to the other."""

from __future__ import annotations

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
Floats = NDArray[np.float64]


class Curve:
    """The sums of pair counts over rows of one pair of kinds, and the curves they give, (B,) bins each.

    Raises UsageError for rows whose bins differ.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        try:
            found = ripley_from_pair_counts({name: rows[name].to_numpy() for name in _COLUMNS})
        except ValueError as error:
            raise UsageError(str(error), "group by digest, or choose the rows of one run with `where`") from error
        total = rows.groupby("bin")[["n_pairs", "expected_pairs"]].sum()
        self.r_min = rows.groupby("bin")["r_min_nm"].first().to_numpy(float)
        self.r, self.g, self.o = found.r_nm, found.pair_correlation, found.o_per_nm2
        self.k, self.random_k, self.l_minus_r = found.k_nm2, found.random_k_nm2, found.l_minus_r_nm
        self.counted = total["n_pairs"].to_numpy(float)
        self.expected = total["expected_pairs"].to_numpy(float)

    @property
    def per_k(self) -> Floats:
        """K of one expected pair, so that K = Σ counts x this."""
        total = np.cumsum(self.expected)
        return np.divide(self.random_k, total, out=np.zeros_like(total), where=total > 0)

    def frame(self) -> pd.DataFrame:
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
    """The same curves of each simulation, (S, B); S is 0 where there are none."""

    def __init__(self, curve: Curve, rows: pd.DataFrame | None) -> None:
        counts = np.zeros((0, len(curve.r)))
        if rows is not None and len(rows):
            simulation = rows["simulation"].to_numpy(int)
            counts = np.zeros((simulation.max() + 1, len(curve.r)))
            np.add.at(counts, (simulation, rows["bin"].to_numpy(int)), rows["n_pairs"].to_numpy(float))
        self.g = counts / np.where(curve.expected > 0, curve.expected, np.nan)
        self.k_nm2 = np.cumsum(counts, axis=1) * curve.per_k
        self.l_minus_r_nm = np.sqrt(self.k_nm2 / np.pi) - np.sqrt(curve.random_k / np.pi)

    def envelopes(self, level: float) -> dict[str, Floats | float]:
        """name_low and name_high of each curve, r by r; NaN without simulations."""
        found: dict[str, Floats | float] = {}
        for name in CURVES:
            values = getattr(self, name)
            for tail, share in (("low", (1.0 - level) / 2.0), ("high", (1.0 + level) / 2.0)):
                found[f"{name}_{tail}"] = _quantile(values, share) if len(values) else np.nan
        return found


def significance(curve: Curve, random: RandomCurves, r_min_nm: float, r_max_nm: float) -> dict[str, Any]:
    """The test of Loosmore and Ford (Ecology 87(8), 2006) with the largest distance from the others' mean L."""
    simulated = random.l_minus_r_nm
    chosen = (curve.r > r_min_nm) & (curve.r <= r_max_nm)
    found = {"n_simulations": len(simulated), "p": np.nan, "direction": None, "r_nm": np.nan}
    if not len(simulated) or not chosen.any():
        return found
    every = np.nan_to_num(np.vstack([curve.l_minus_r, simulated])[:, chosen])
    apart = every - (every.sum(axis=0) - every) / (len(every) - 1)
    worst = np.abs(apart).max(axis=1)
    at = int(np.abs(apart[0]).argmax())
    return found | {
        "p": float((worst >= worst[0] * (1.0 - 1e-12)).mean()),
        "direction": "clustered" if apart[0, at] > 0.0 else "spaced",
        "r_nm": float(curve.r[chosen][at]),
    }


def share_at_least(observed: float, simulated: Sequence[float] | Floats) -> float:
    """Monte Carlo p: the observation is one of the simulations, so it is never 0; NaN without simulations."""
    values = np.asarray(simulated, float)
    return float((1 + (values >= observed).sum()) / (1 + len(values))) if len(values) else np.nan


def _quantile(values: Floats, share: float) -> Floats:
    """Of S simulations, so that a further one lies below with this probability: rank share x (S + 1)."""
    ordered = np.sort(values, axis=0)
    rank = np.clip(share * (len(values) + 1) - 1.0, 0.0, len(values) - 1.0)
    below = int(rank)
    above = min(below + 1, len(values) - 1)
    return np.asarray(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))

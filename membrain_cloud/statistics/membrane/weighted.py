"""Means and quantiles over area."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float | None:
    """The value below which `share` of the weight lies; each value stands in the middle of its own weight.

    values, weights : (N,).  Values that are not finite and weights of 0 are left out; None where nothing is left.
    """
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return None
    order = np.argsort(values[known], kind="stable")
    sorted_values, sorted_weights = values[known][order], weights[known][order]
    position = np.cumsum(sorted_weights) - 0.5 * sorted_weights
    return float(np.interp(share * sorted_weights.sum(), position, sorted_values))


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    """Σ wv / Σ w over finite values of weight above 0; None where there are none."""
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return None
    return float((values[known] * weights[known]).sum() / weights[known].sum())

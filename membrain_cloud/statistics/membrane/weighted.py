"""Means and quantiles weighted by area."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float | None:
    """Return a weighted quantile.

    The sorted values stand at the middle of their own weight on the axis of cumulated weight; between them the quantile
    is interpolated linearly.

    Parameters
    ----------
    values : (N,) float64 array
        Samples. Infinite and NaN ones are left out.
    weights : (N,) float64 array
        Weight of each sample, e.g. an area. Samples of weight 0 are left out.
    share : float
        Fraction of the total weight below the quantile, 0 to 1: 0.5 is the median.

    Returns
    -------
    float or None
        The quantile in the unit of `values`; None if no sample is left.

    Examples
    --------
    >>> weighted_quantile(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]), 0.5)
    2.0
    >>> weighted_quantile(np.array([1.0, np.nan]), np.array([0.0, 1.0]), 0.5) is None
    True
    """
    used = np.isfinite(values) & (weights > 0)
    if not used.any():
        return None
    order = np.argsort(values[used], kind="stable")
    sorted_values, sorted_weights = values[used][order], weights[used][order]
    position = np.cumsum(sorted_weights) - 0.5 * sorted_weights
    return float(np.interp(share * sorted_weights.sum(), position, sorted_values))


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    """Return a weighted mean.

    Parameters
    ----------
    values : (N,) float64 array
        Samples. Infinite and NaN ones are left out.
    weights : (N,) float64 array
        Weight of each sample. Samples of weight 0 are left out.

    Returns
    -------
    float or None
        The mean in the unit of `values`; None if no sample is left.

    Examples
    --------
    >>> weighted_mean(np.array([1.0, 4.0, np.inf]), np.array([2.0, 1.0, 1.0]))
    2.0
    """
    used = np.isfinite(values) & (weights > 0)
    if not used.any():
        return None
    return float((values[used] * weights[used]).sum() / weights[used].sum())

"""Peaks of the pair correlation: preferred spacings, as numbers with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Peak:
    """A peak of the pair correlation.

    Parameters
    ----------
    r_nm, r_error_nm : float
        Distance of the peak and its standard error from the counts, nm.
    g, g_error : float
        Pair correlation at the peak and its standard error.
    significance : float
        Height of g above 1, in standard errors of a random pattern.
    """

    r_nm: float
    r_error_nm: float
    g: float
    g_error: float
    significance: float


def pair_correlation_peaks(
    r_min_nm: Floats,
    r_max_nm: Floats,
    n_pairs: Floats,
    expected_pairs: Floats,
    *,
    half_width_nm: float,
    least_significance: float,
) -> list[Peak]:
    """Find the peaks of g = n_pairs / expected_pairs.

    A parabola is fitted to the bins within `half_width_nm` of each bin's middle, by least squares weighted with the
    Poisson errors of the expected counts. Its vertex is a peak if it lies in that bin, is the highest one within the
    half width, and is significant. Errors follow from the covariance of the fit; pairs are counted in both orders, so
    half of them are independent.

    Parameters
    ----------
    r_min_nm, r_max_nm : (B,) float64 array
        Lower and upper ends of the bins, nm, rising.
    n_pairs : (B,) float64 array
        Ordered pairs counted in each bin.
    expected_pairs : (B,) float64 array
        Ordered pairs expected at random; bins with 0 are left out.
    half_width_nm : float
        Half the width of the fit, nm, at least one bin. Of peaks nearer than this, the highest one stays.
    least_significance : float
        Peaks below this significance are left out.

    Returns
    -------
    list of Peak
        Peaks by rising distance.

    Raises
    ------
    ValueError
        If the half width is less than a bin.
    """
    middle, width = (r_min_nm + r_max_nm) / 2.0, r_max_nm - r_min_nm
    if len(width) and half_width_nm < width.max():
        raise ValueError(f"a half width of {half_width_nm:g} nm is less than a bin of {width.max():g} nm")
    has_area = expected_pairs > 0.0
    g = np.divide(n_pairs, expected_pairs, out=np.full(len(middle), np.nan), where=has_area)
    peaks = []
    for i in np.flatnonzero(has_area):
        near = has_area & (np.abs(middle - middle[i]) <= half_width_nm * (1.0 + 1e-9))
        if near[: i + 1].sum() < 2 or near[i:].sum() < 2:
            continue
        peak = _fit_peak(middle[near], g[near], n_pairs[near], expected_pairs[near], middle[i], width[i] / 2.0)
        if peak is not None and peak.significance >= least_significance:
            peaks.append(peak)
    return [
        peak
        for peak in peaks
        if not any(abs(other.r_nm - peak.r_nm) <= half_width_nm and other.g > peak.g for other in peaks)
    ]


def _fit_peak(r: Floats, g: Floats, counted: Floats, expected: Floats, here: float, reach: float) -> Peak | None:
    """Fit a parabola to the bins at r (nm) and return its vertex.

    Returns None if the parabola opens upwards, or if its vertex lies farther than `reach` from `here`.
    """
    # The variance of a count is estimated by its mean: a smooth one, so that empty bins do not get the largest weight.
    smooth = np.maximum(counted.mean() / expected.mean() * expected, 1.0)
    sigma = np.sqrt(2.0 * smooth) / expected
    x = r - here
    terms = np.stack([np.ones_like(x), x, x * x], axis=1)
    weighted = terms / sigma[:, None]
    if len(x) < 3 or np.linalg.matrix_rank(weighted) < 3:
        return None
    covariance = np.linalg.inv(weighted.T @ weighted)
    a, b, c = covariance @ (weighted.T @ (g / sigma))
    if c >= 0.0 or abs(b) > 2.0 * reach * -c * (1.0 + 1e-9):
        return None
    vertex = -b / (2.0 * c)
    value = a + b * vertex + c * vertex * vertex
    # Derivatives of the vertex, and of the value there, by a, b, c.
    slopes = np.array([0.0, -1.0 / (2.0 * c), b / (2.0 * c * c)])
    at_vertex = np.array([1.0, vertex, vertex * vertex])
    random_error = np.sqrt(at_vertex @ covariance @ at_vertex * (1.0 / max(counted.sum() / expected.sum(), 1e-9)))
    return Peak(
        float(here + vertex),
        float(np.sqrt(slopes @ covariance @ slopes)),
        float(value),
        float(np.sqrt(at_vertex @ covariance @ at_vertex)),
        float((value - 1.0) / random_error),
    )

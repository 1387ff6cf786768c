"""Peaks of the pair correlation: preferred spacings, as numbers with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Peak:
    """r_nm, r_error_nm : where the pair correlation has its top, and the standard error that the counts leave.

    g, g_error : at the top.  significance : how many standard errors of chance g is above 1.
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
    """Tops of g = n_pairs / expected_pairs, (B,) bins each, by rising distance.

    A parabola is fitted to the bins within `half_width_nm` of each bin's middle, by least squares weighted with the
    Poisson errors of what is expected there; its top is a peak where it lies in that bin, is the highest within the
    half width, and is significant. The errors follow from the fit's covariance: pairs are counted in
    both orders, so half of them are independent. Raises ValueError for a half width of less than a bin.
    """
    middle, width = (r_min_nm + r_max_nm) / 2.0, r_max_nm - r_min_nm
    if len(width) and half_width_nm < width.max():
        raise ValueError(f"a half width of {half_width_nm:g} nm is less than a bin of {width.max():g} nm")
    known = expected_pairs > 0.0
    g = np.divide(n_pairs, expected_pairs, out=np.full(len(middle), np.nan), where=known)
    found = []
    for i in np.flatnonzero(known):
        near = known & (np.abs(middle - middle[i]) <= half_width_nm * (1.0 + 1e-9))
        if near[: i + 1].sum() < 2 or near[i:].sum() < 2:
            continue
        peak = _top(middle[near], g[near], n_pairs[near], expected_pairs[near], middle[i], width[i] / 2.0)
        if peak is not None and peak.significance >= least_significance:
            found.append(peak)
    return [
        peak
        for peak in found
        if not any(abs(other.r_nm - peak.r_nm) <= half_width_nm and other.g > peak.g for other in found)
    ]


def _top(r: Floats, g: Floats, counted: Floats, expected: Floats, here: float, reach: float) -> Peak | None:
    # The variance of a count is estimated by its mean: a smooth one, so that empty bins do not weigh most.
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
    top = -b / (2.0 * c)
    value = a + b * top + c * top * top
    slopes = np.array([0.0, -1.0 / (2.0 * c), b / (2.0 * c * c)])
    at_top = np.array([1.0, top, top * top])
    by_chance = np.sqrt(at_top @ covariance @ at_top * (1.0 / max(counted.sum() / expected.sum(), 1e-9)))
    return Peak(
        float(here + top),
        float(np.sqrt(slopes @ covariance @ slopes)),
        float(value),
        float(np.sqrt(at_top @ covariance @ at_top)),
        float((value - 1.0) / by_chance),
    )

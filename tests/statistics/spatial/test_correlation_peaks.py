"""Peaks of the pair correlation: their positions agree with the truth within their errors."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.statistics.spatial.correlation_peaks import Peak, pair_correlation_peaks

R = np.arange(0.0, 41.0)


def peaks_of(counts: np.ndarray, expected: np.ndarray, least: float = 4.0) -> list[Peak]:
    return pair_correlation_peaks(R[:-1], R[1:], counts, expected, half_width_nm=2.5, least_significance=least)


def drawn(rng: np.random.Generator, g: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Draw counts of ordered pairs: each pair counts twice."""
    return 2.0 * rng.poisson(g * expected / 2.0)


def test_a_spacing_is_found_within_its_error() -> None:
    middle = (R[:-1] + R[1:]) / 2.0
    g = 1.0 + 1.5 * np.exp(-0.5 * ((middle - 12.3) / 2.0) ** 2)
    expected = 40.0 * middle
    rng = np.random.default_rng(0)
    peaks = [
        min(peaks_of(drawn(rng, g, expected), expected), key=lambda peak: abs(peak.r_nm - 12.3)) for _ in range(200)
    ]
    scores = np.array([(peak.r_nm - 12.3) / peak.r_error_nm for peak in peaks])
    assert abs(np.mean([peak.r_nm for peak in peaks]) - 12.3) < 0.1
    assert 0.7 < scores.std() < 1.3
    assert np.mean([peak.g for peak in peaks]) == pytest.approx(2.5, rel=0.1)


def test_random_patterns_hardly_ever_have_a_peak() -> None:
    expected = 20.0 * (R[:-1] + R[1:])
    rng = np.random.default_rng(1)
    runs = [peaks_of(drawn(rng, np.ones(40), expected), expected) for _ in range(300)]
    assert np.mean([len(peaks) > 0 for peaks in runs]) < 0.02


def test_empty_bins_and_too_fine_a_width() -> None:
    assert peaks_of(np.zeros(40), np.zeros(40)) == []
    assert peaks_of(np.zeros(40), np.ones(40)) == []
    with pytest.raises(ValueError, match="less than a bin"):
        pair_correlation_peaks(R[:-1], R[1:], R[1:], R[1:], half_width_nm=0.5, least_significance=1.0)


def test_shells_of_a_hexagonal_lattice() -> None:
    """Shells at a, √3 a and 2 a, blurred by a tenth of the spacing."""
    spacing = 9.0
    i, j = (index.ravel() for index in np.meshgrid(np.arange(-30, 31), np.arange(-30, 31), indexing="ij"))
    places = spacing * np.column_stack([i + 0.5 * j, np.sqrt(0.75) * j])
    places = places + np.random.default_rng(2).normal(0, 0.1 * spacing / np.sqrt(2), places.shape)
    inner = np.flatnonzero(np.linalg.norm(places, axis=1) < 150.0)
    apart = np.linalg.norm(places[inner, None] - places[None], axis=2)
    counts = np.histogram(apart[apart > 0.0], R)[0].astype(float)
    density = 2 / (np.sqrt(3) * spacing**2)
    expected = len(inner) * density * np.pi * np.diff(R**2)
    peaks = pair_correlation_peaks(R[:-1], R[1:], counts, expected, half_width_nm=1.5, least_significance=5.0)
    assert peaks[0].r_nm == pytest.approx(spacing, rel=0.03)
    assert peaks[0].g > 2.0

"""Weighted means and quantiles."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.statistics.membrane.weighted import weighted_mean, weighted_quantile


def test_equal_weights_give_the_median_and_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=101)
    assert weighted_quantile(values, np.full(101, 0.3), 0.5) == pytest.approx(np.median(values))
    assert weighted_mean(values, np.full(101, 0.3)) == pytest.approx(values.mean())


def test_a_weight_of_two_counts_like_two_samples() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0])
    twice = np.array([1.0, 1.0, 2.0, 3.0])
    assert weighted_mean(values, weights) == pytest.approx(twice.mean())
    # half of the weight lies below the middle between 1 and 2, whose weights reach to 2 and 3 of 4
    assert weighted_quantile(values, weights, 0.5) == pytest.approx(1.0 + (2.0 - 1.0) / 1.5)


def test_unknown_values_and_zero_weights_are_left_out() -> None:
    values, weights = np.array([np.nan, 5.0, np.inf, 7.0]), np.array([1.0, 2.0, 1.0, 0.0])
    assert weighted_quantile(values, weights, 0.9) == 5.0
    assert weighted_mean(values, weights) == 5.0
    assert weighted_quantile(values[:1], weights[:1], 0.5) is None
    assert weighted_mean(values[:1], weights[:1]) is None

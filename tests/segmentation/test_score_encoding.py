"""Scores in few bytes give the masks of the full scores."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.segmentation.score_encoding import SCORE_TYPES, encode_scores, scores_above

EDGES = np.array([0.0, -0.0, 1e-30, -1e-30, 1e-7, -1e-7, 6.0, -6.0, 80.0, -80.0, 1e6, -1e6], np.float32)


@pytest.fixture
def logits() -> np.ndarray:
    return np.concatenate([EDGES, np.random.default_rng(3).normal(0, 4, 20_000).astype(np.float32)])


@pytest.mark.parametrize("dtype", SCORE_TYPES)
def test_the_default_threshold_loses_nothing(logits: np.ndarray, dtype: str) -> None:
    stored = encode_scores(logits, dtype)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(scores_above(stored, 0.0), logits > 0)


@pytest.mark.parametrize("threshold", [-3.0, -0.5, 0.7, 2.0])
def test_other_thresholds_are_as_sharp_as_the_type(logits: np.ndarray, threshold: float) -> None:
    def probability(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-np.clip(values, -50, 50).astype(np.float64)))

    np.testing.assert_array_equal(scores_above(logits, threshold), logits > np.float32(threshold))
    wrong = scores_above(encode_scores(logits, "uint8"), threshold) != (logits > threshold)
    assert (abs(probability(logits[wrong]) - probability(np.array(threshold))) <= 0.5 / 256).all()
    wrong = scores_above(encode_scores(logits, "float16"), threshold) != (logits > threshold)
    assert (abs(logits[wrong] - threshold) <= 2e-3).all()


def test_what_is_no_score_is_refused() -> None:
    with pytest.raises(TomogramError, match="NaN"):
        encode_scores(np.array([0.0, np.nan], np.float32), "uint8")
    with pytest.raises(TomogramError, match="int16"):
        scores_above(np.zeros(3, np.int16), 0.0)
    with pytest.raises(ValueError, match="float16"):
        encode_scores(np.zeros(3, np.float32), "int8")

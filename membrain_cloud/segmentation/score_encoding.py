"""Store scores in few bytes, and apply any threshold to them later.

Two forms: `float16`, the logit; `uint8`, the probability in 256 steps, which a viewer shows as an image. With either,
the mask at threshold 0 is that of the full scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORE_TYPES = ("float16", "uint8")
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.float16(np.finfo(np.float16).smallest_subnormal)


def encode_scores(logits: NDArray[np.float32], dtype: str) -> NDArray[np.float16] | NDArray[np.uint8]:
    """Encode logits in one or two bytes.

    Parameters
    ----------
    logits : ndarray, any shape, float32
        Finite logits.
    dtype : str
        "float16": logits, clipped to its range, and above 0 where they were; "uint8": floor(256 x probability).

    Returns
    -------
    ndarray, the shape of the logits, float16 or uint8
        The encoded scores.

    Raises
    ------
    TomogramError
        If a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TomogramError("the scores hold NaN or infinite values", "check the model and the tomogram")
    if dtype == "float16":
        halves = np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)
        halves[(halves == 0) & (logits > 0)] = _SMALLEST
        return halves
    if dtype != "uint8":
        raise ValueError(f"scores are kept as {' or '.join(SCORE_TYPES)}, not as {dtype}")
    # the comparison with 0 is exact, the sigmoid of a tiny logit is not
    steps = np.floor(256.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0).astype(np.float64))))
    return np.where(logits > 0, np.clip(steps, 128, 255), np.clip(steps, 0, 127)).astype(np.uint8)


def scores_above(scores: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Apply a threshold to stored scores.

    Parameters
    ----------
    scores : ndarray, any shape, floating or uint8
        Logits, or probabilities in 256 steps.
    threshold : float
        Threshold of the logit. Of probabilities the middle of each step is compared, so it is exact to 1/256 in
        probability.

    Returns
    -------
    ndarray, the shape of the scores, bool
        True where the logit is above the threshold.
    """
    if scores.dtype == np.uint8:
        probability = 1.0 / (1.0 + math.exp(-min(max(threshold, -30.0), 30.0)))
        return np.asarray(scores + 0.5 > 256.0 * probability)
    if scores.dtype.kind != "f":
        raise TomogramError(f"values of type {scores.dtype} are no scores", "give the scores that `segment` wrote")
    return np.asarray(scores.astype(np.float32, copy=False) > np.float32(threshold))

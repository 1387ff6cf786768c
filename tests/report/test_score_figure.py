"""Scores are drawn at their values, in one column a score and one colour a group."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from membrain_cloud.report.score_figure import SCORES, scores_figure
from membrain_cloud.report.theme import SERIES


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def has_colour(image: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(image - np.array(to_rgb(colour)) * 255).max(axis=2) < 6


def test_a_higher_score_is_drawn_higher() -> None:
    low, high = (pixels(scores_figure([{"dice": value}], title="t")) for value in (0.2, 0.9))
    rows = [np.nonzero(has_colour(image, SERIES[0]))[0].mean() for image in (low, high)]
    assert rows[0] > rows[1] + 50


def test_scores_that_no_row_has_take_no_column() -> None:
    one = pixels(scores_figure([{"dice": 0.5, "other": 3.0}], title="t"))
    all_of_them = pixels(scores_figure([dict.fromkeys(SCORES, 0.5)], title="t"))
    assert all_of_them.shape[1] > 2 * one.shape[1]


def test_groups_have_their_own_colours() -> None:
    rows = [{"dice": 0.3, "fold": 1}, {"dice": 0.6, "fold": 2}, {"fold": 2}]
    image = pixels(scores_figure(rows, title="t", group="fold"))
    assert all(has_colour(image, colour).sum() > 20 for colour in SERIES[:2])
    assert not has_colour(pixels(scores_figure(rows, title="t")), SERIES[1]).any()

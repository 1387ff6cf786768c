"""Scores of many tomograms in one figure: one column a score, one dot a tomogram, a line at the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from membrain_cloud.report.figures import png
from membrain_cloud.report.plots import style
from membrain_cloud.report.theme import LIGHT, SERIES, Theme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

SCORES = (
    "dice", "precision", "recall", "surface_dice", "surface_precision", "surface_recall", "particle_f1",
    "particle_precision", "particle_recall", "particle_f1_one_to_one", "particle_precision_one_to_one",
    "particle_recall_one_to_one", "mesh_f1", "mesh_precision", "mesh_recall",
)  # fmt: skip
"""Scores between 0 and 1, in the order in which they are drawn."""

_DPI = 120


def scores_figure(rows: Sequence[Mapping[str, Any]], *, title: str, group: str = "", theme: Theme = LIGHT) -> bytes:
    """Draw the scores of many tomograms.

    Parameters
    ----------
    rows : sequence of mappings
        One row a tomogram: score -> value, None or absent if unknown. Only `SCORES` are drawn.
    title : str
        Heading of the figure.
    group : str
        A column, such as a fold or a round, by whose values dots are coloured; empty draws one colour.
    theme : Theme
        Colours of labels and axes.

    Returns
    -------
    bytes
        A PNG.
    """
    names = [name for name in SCORES if any(row.get(name) is not None for row in rows)]
    groups = list(dict.fromkeys(row.get(group) for row in rows)) if group else [None]
    figure = Figure(figsize=(max(4.0, 1.1 * len(names) + 1.0), 4.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    style(axes, theme)
    for number, value in enumerate(groups):
        colour = SERIES[number % len(SERIES)]
        shift = (number - (len(groups) - 1) / 2) * 0.8 / max(1, len(groups))
        of_group = [row for row in rows if not group or row.get(group) == value]
        for column, name in enumerate(names):
            scores = np.array([row[name] for row in of_group if row.get(name) is not None], float)
            _draw_column(axes, column + shift, scores, 1 / max(1, len(groups)), colour)
        if group:
            axes.plot([], [], "o", color=colour, label=f"{group} {value}")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=35, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("score")
    axes.set_title(title, color=theme.text, fontsize=10)
    if group:
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)
    return png(figure, opaque=True)


def _draw_column(
    axes: Axes, x: float, scores: np.ndarray[Any, np.dtype[np.float64]], width: float, colour: str
) -> None:
    """Draw the dots of one score and group around x, and a line at their mean."""
    if not scores.size:
        return
    # Dots are spread sideways by rank, so that equal scores do not hide each other.
    spread = (np.argsort(np.argsort(scores, kind="stable")) % 5 - 2) * 0.06 * width
    axes.plot(x + spread, scores, "o", ms=5, color=colour, alpha=0.7, mew=0)
    half = 0.35 * width
    axes.plot([x - half, x + half], [scores.mean()] * 2, color=colour, lw=2)

"""Scores of many tomograms in one figure: a column a score, a dot a tomogram, a line at their mean."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from membrain_cloud.report.plots import style
from membrain_cloud.report.theme import LIGHT, SERIES, Theme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Scores between 0 and 1, in the order in which they are drawn.
SCORES = (
    "dice", "precision", "recall", "surface_dice", "surface_precision", "surface_recall", "particle_f1",
    "particle_precision", "particle_recall", "particle_f1_one_to_one", "particle_precision_one_to_one",
    "particle_recall_one_to_one", "mesh_f1", "mesh_precision", "mesh_recall",
)  # fmt: skip
_DPI = 120


def scores_figure(rows: Sequence[Mapping[str, Any]], *, title: str, group: str = "", theme: Theme = LIGHT) -> bytes:
    """A PNG. rows : one a tomogram; those without any of SCORES are left out.

    group : a column by whose values dots are coloured, such as a fold or a round; empty: one colour.
    """
    names = [name for name in SCORES if any(row.get(name) is not None for row in rows)]
    groups = list(dict.fromkeys(row.get(group) for row in rows)) if group else [None]
    figure = Figure(figsize=(max(4.0, 1.1 * len(names) + 1.0), 4.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    style(axes, theme)
    for number, value in enumerate(groups):
        chosen = [row for row in rows if not group or row.get(group) == value]
        colour = SERIES[number % len(SERIES)]
        shift = (number - (len(groups) - 1) / 2) * 0.8 / max(1, len(groups))
        for column, name in enumerate(names):
            found = np.array([row[name] for row in chosen if row.get(name) is not None], float)
            if not found.size:
                continue
            # Dots of one column lie beside each other by their rank, so that equal ones are all seen.
            spread = (np.argsort(np.argsort(found, kind="stable")) % 5 - 2) * 0.06 / max(1, len(groups))
            axes.plot(column + shift + spread, found, "o", ms=5, color=colour, alpha=0.7, mew=0)
            half = 0.35 / max(1, len(groups))
            axes.plot([column + shift - half, column + shift + half], [found.mean()] * 2, color=colour, lw=2)
        if group:
            axes.plot([], [], "o", color=colour, label=f"{group} {value}")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=35, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("score")
    axes.set_title(title, color=theme.text, fontsize=10)
    if group:
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()

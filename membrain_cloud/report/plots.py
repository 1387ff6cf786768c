"""Plots of the frames of `membrain_cloud.tables`, on axes that the caller gives: for pages and notebooks.

    analysis = tables.open("project/config.json")
    figure, axes = plt.subplots(1, 2)
    plots.pair_correlation(axes[0], analysis.ripley())
    plots.against(axes[1], analysis.density_against("distance_to_edge_nm"), "distance to the edge / nm")

A frame of several groups (kinds of particles, leaflets, runs, ...) is drawn in one colour a group, ten groups at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.report.theme import LIGHT, SERIES, Theme

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

Floats = NDArray[np.float64]

_PAIR = ("object_name", "target_object_name")
# The first of these columns in a frame ends the columns that it is grouped by.
_MEASURES = (
    "r_min_nm", "r_max_nm", "bin_min", "bin_max", "angle_min_degrees", "angle_max_degrees", "offset_min_nm",
    "property_min", "n", "area_um2",
)  # fmt: skip
_MAX_GROUPS = 10


def nearest_neighbors(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Draw the histogram of distances to the nearest neighbour, with medians as lines.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.nearest_neighbors`.
    theme : Theme
        Colours of labels and axes.
    """
    for label, colour, rows in _groups(frame):
        edges = [*rows["r_min_nm"], rows["r_max_nm"].iloc[-1]]
        median = rows["median_nm"].iloc[0]
        axes.stairs(100 * rows["share"], edges, fill=True, alpha=0.35, color=colour)
        axes.stairs(100 * rows["share"], edges, color=colour, lw=1.2)
        axes.axvline(
            median, color=colour, lw=1.4, ls=(0, (1, 1)), label=f"{label}: median {median:.1f} nm".lstrip(": ")
        )
    axes.set_xlim(left=0)
    _finish(axes, theme, frame, "geodesic distance to the nearest neighbour / nm", "share of particles / %")


def pair_correlation(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Draw the pair correlation g, with the envelope of random patterns if there are simulations.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.ripley`.
    theme : Theme
        Colours of labels and axes.
    """
    _curve(axes, frame, "g", theme, at_random=1.0, middle=True)
    limits = frame["g_high"].to_numpy(float) if "g_high" in frame.columns else np.zeros(0)
    axes.set_ylim(0, top_of(frame["g"].to_numpy(float), limits) if len(frame) else None)
    _finish(axes, theme, frame, "geodesic distance r / nm", "pair correlation g(r)")


def l_function(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Draw Ripley's L less that at random, with the envelope of random patterns if there are simulations.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.ripley`.
    theme : Theme
        Colours of labels and axes.
    """
    _curve(axes, frame, "l_minus_r_nm", theme, at_random=0.0, middle=False)
    _finish(axes, theme, frame, "geodesic distance r / nm", "Ripley's L(r) - random / nm")


def histogram(axes: Any, frame: pd.DataFrame, label: str, theme: Theme = LIGHT, *, beyond: bool = True) -> None:
    """Draw the share of area in bins of a property.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.histogram`.
    label : str
        Name of the property with its unit.
    theme : Theme
        Colours of labels and axes.
    beyond : bool
        Draw the outer bins, which also hold the values beyond them. If false, their share is written into the legend,
        which suits distances that most of a membrane does not have.
    """
    for name, colour, rows in _groups(frame):
        text, drawn = name, rows
        if not beyond:
            outside = 100 * float(rows["share"][rows["holds_beyond"]].sum())
            text, drawn = f"{name}: {outside:.0f} % beyond".lstrip(": "), rows[~rows["holds_beyond"]]
        if len(drawn):
            edges, values = _with_gaps(drawn, 100 * drawn["share"].to_numpy())
            axes.stairs(values, edges, fill=True, alpha=0.3, color=colour)
            axes.stairs(values, edges, color=colour, lw=1.2, label=text or None)
    axes.locator_params(axis="x", nbins=7)
    _finish(axes, theme, frame, label, "share of area / %")


def against(axes: Any, frame: pd.DataFrame, label: str, theme: Theme = LIGHT, *, least_area_um2: float = 0.0) -> None:
    """Draw densities or distances to the nearest neighbour in bins of a property, with standard errors.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.density_against` (particles per µm²) or `Analysis.neighbors_against` (mean distance).
    label : str
        Name of the property with its unit.
    theme : Theme
        Colours of labels and axes.
    least_area_um2 : float
        Densities in bins with less area (µm²) are left out.
    """
    dense = "per_um2" in frame.columns
    value, error = ("per_um2", "per_um2_error") if dense else ("mean_nm", "mean_error_nm")
    for name, colour, rows in _groups(frame):
        drawn = rows[rows["area_um2"] >= least_area_um2] if dense else rows
        middle = (drawn["bin_min"] + drawn["bin_max"]) / 2
        axes.errorbar(middle, drawn[value], drawn[error], fmt="o", ms=3.5, lw=1.2, color=colour, label=name or None)
        section = (drawn["bin_min"] - drawn["bin_max"].shift()).gt(1e-9).cumsum()  # no line over bins without a row
        for _, part in drawn.groupby(section):
            axes.plot((part["bin_min"] + part["bin_max"]) / 2, part[value], color=colour, lw=1.2)
        if dense and drawn["area_um2"].sum() > 0:
            mean = drawn["n_particles"].sum() / drawn["area_um2"].sum()
            axes.axhline(mean, color=colour, lw=1, ls=(0, (4, 3)), alpha=0.7)
    axes.set_ylim(bottom=0)
    _finish(axes, theme, frame, label, "particles per µm²" if dense else "nearest neighbour / nm")


def angles(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Draw the histogram of in-plane angles; it is flat for random rotations.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.in_plane_angles`.
    theme : Theme
        Colours of labels and axes.
    """
    for name, colour, rows in _groups(frame):
        edges = [*rows["angle_min_degrees"], rows["angle_max_degrees"].iloc[-1]]
        axes.stairs(100 * rows["share"], edges, color=colour, lw=1.4, label=name or None)
    if len(frame):
        axes.set_xlim(0, float(frame["angle_max_degrees"][frame["n"] > 0].max()))
    _finish(axes, theme, frame, "in-plane angle to the nearest neighbour / °", "share / %")


def density_profile(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Draw the mean density over the offset from midway between the leaflets.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    frame : DataFrame
        Of `Analysis.density_profile`.
    theme : Theme
        Colours of labels and axes.
    """
    for name, colour, rows in _groups(frame):
        middle = (rows["offset_min_nm"] + rows["offset_max_nm"]) / 2
        axes.plot(middle, rows["density_sigma"], color=colour, lw=1.8, label=name or None)
    axes.axhline(0.0, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7)
    _finish(axes, theme, frame, "offset along the normal / nm", "density / σ")


def style(axes: Any, theme: Theme) -> None:
    """Set the common style of axes: no frame at the top and right, quiet colours.

    Parameters
    ----------
    axes : Axes
        The axes, with their labels.
    theme : Theme
        Colours of labels and axes.
    """
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(colors=theme.text, labelsize=9, length=3)
    axes.xaxis.label.set(color=theme.text, size=10)
    axes.yaxis.label.set(color=theme.text, size=10)


def nothing_to_show(axes: Any, theme: Theme, why: str = "too few particles") -> None:
    """Write a remark into axes without data.

    Parameters
    ----------
    axes : Axes
        The axes.
    theme : Theme
        Colours of labels and axes.
    why : str
        The remark.
    """
    axes.text(0.5, 0.5, why, ha="center", va="center", color=theme.text, size=10, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _curve(axes: Any, frame: pd.DataFrame, name: str, theme: Theme, *, at_random: float, middle: bool) -> None:
    """Draw a curve of each group, its value at random and its envelope.

    `middle` draws values at the middles of the bins, otherwise at their upper ends.
    """
    axes.axhline(at_random, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7, label="at random")
    has_envelope = name + "_low" in frame.columns and bool(frame[name + "_low"].notna().any())
    for label, colour, rows in _groups(frame):
        r = (rows["r_min_nm"] + rows["r_max_nm"]) / 2 if middle else rows["r_max_nm"]
        if has_envelope:
            axes.fill_between(r, rows[name + "_low"], rows[name + "_high"], color=colour, alpha=0.18, lw=0)
        axes.plot(r, rows[name], color=colour, lw=1.9, label=label or "observed")
    if has_envelope:
        axes.fill_between([], [], [], color=theme.text, alpha=0.18, lw=0, label="95 % at random")
    if len(frame):
        axes.set_xlim(0, float(frame["r_max_nm"].max()))


def top_of(values: Floats, limits: Floats) -> float | None:
    """Return the upper end of the axis of g.

    It shows all observed values, and three quarters of the envelope: the envelope's highest parts, where hardly a pair
    is expected, would squeeze the curve.

    Parameters
    ----------
    values : (B,) float64 array
        Observed values.
    limits : (B,) float64 array
        Upper ends of the envelope; may be empty.

    Returns
    -------
    float or None
        The upper end, at least 2; None without finite values.
    """
    values, limits = values[np.isfinite(values)], limits[np.isfinite(limits)]
    tops = [float(values.max())] if values.size else []
    tops += [float(np.percentile(limits, 75))] if limits.size else []
    return max(2.0, 1.08 * max(tops)) if tops else None


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield label, colour and rows of each group; the label of a single group is empty."""
    names = _group_names(frame)
    if not names:
        yield "", SERIES[0], frame
        return
    groups = list(frame.groupby(names, dropna=False, observed=True, sort=False))[:_MAX_GROUPS]
    for number, (group, rows) in enumerate(groups):
        label = "" if len(groups) == 1 else _label(dict(zip(names, group, strict=True)))
        yield label, SERIES[number % len(SERIES)], rows


def _group_names(frame: pd.DataFrame) -> list[str]:
    """Return the columns that a frame is grouped by: those before its first measure."""
    names: list[str] = []
    for column in frame.columns:
        if column in _MEASURES:
            break
        names.append(column)
    return names


def _label(group: dict[str, Any]) -> str:
    """Return the label of a group, e.g. "TS_1, psii → cytb6f"."""
    words = [_word(name, value) for name, value in group.items() if name not in _PAIR]
    kinds = [str(group[name]) for name in _PAIR if name in group]
    if kinds:
        words.append(kinds[0] if len(set(kinds)) == 1 else " → ".join(kinds))
    return ", ".join(words)


def _word(name: str, value: Any) -> str:
    """Return the part of a label for one column."""
    if name == "leaflet":
        return {0: "larger leaflet", 1: "smaller leaflet"}.get(value, "leaflet unknown")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_gaps(rows: pd.DataFrame, values: Floats) -> tuple[Floats, Floats]:
    """Return edges and values of all bins, with zeros in those that have no row."""
    edges, filled = [float(rows["bin_min"].iloc[0])], []
    for low, high, value in zip(rows["bin_min"], rows["bin_max"], values, strict=True):
        if low > edges[-1] + 1e-9:
            edges.append(float(low))
            filled.append(0.0)
        edges.append(float(high))
        filled.append(float(value))
    return np.array(edges), np.array(filled)


def _finish(axes: Any, theme: Theme, frame: pd.DataFrame, x_label: str, y_label: str) -> None:
    """Set style, labels and legend; write a remark if the frame has no rows."""
    style(axes, theme)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if not len(frame):
        nothing_to_show(axes, theme)
        return
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)

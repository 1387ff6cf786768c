"""Plots of the frames that `membrain_cloud.tables` makes, each on axes that the caller gives: for pages and notebooks.

    figure, axes = plt.subplots(1, 2)
    plots.pair_correlation(axes[0], found.ripley())
    plots.against(axes[1], found.density_against("distance_to_edge_nm"), "distance to the edge / nm")

A frame with several groups (kinds of particles, leaflets, runs, ...) is drawn in one colour a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.report.theme import LIGHT, SERIES, Theme

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

_PAIR = ("object_name", "target_object_name")
#: Columns that no frame is grouped by.
_MEASURES = (
    "r_min_nm", "r_max_nm", "bin_min", "bin_max", "angle_min_degrees", "angle_max_degrees", "offset_min_nm",
    "property_min", "n", "area_um2",
)  # fmt: skip
_MOST_GROUPS = 10


def nearest_neighbors(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """Histogram of `nearest_neighbors()`: share of particles in % over geodesic distance, medians as lines."""
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
    """G of `ripley()` over distance, with the envelope of particles at random where there are simulations."""
    _curve(axes, frame, "g", 1.0, theme, middle=True)
    limits = frame["g_high"].to_numpy(float) if "g_high" in frame.columns else np.zeros(0)
    axes.set_ylim(0, top_of(frame["g"].to_numpy(float), limits) if len(frame) else None)
    _finish(axes, theme, frame, "geodesic distance r / nm", "pair correlation g(r)")


def l_function(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """L of `ripley()` less that at random, with the envelope of particles at random where there are simulations."""
    _curve(axes, frame, "l_minus_r_nm", 0.0, theme, middle=False)
    _finish(axes, theme, frame, "geodesic distance r / nm", "Ripley's L(r), less at random / nm")


def histogram(axes: Any, frame: pd.DataFrame, label: str, theme: Theme = LIGHT, *, beyond: bool = True) -> None:
    """`histogram()` of a property: share of area in % in each bin. label : of the property, with its unit.

    beyond : also draw the property's outer bins, which hold all that lies beyond them; otherwise their share is said in
    words, as suits distances that most of a membrane has none of.
    """
    for name, colour, rows in _groups(frame):
        if not beyond:
            outside = 100 * float(rows["share"][rows["holds_beyond"]].sum())
            name = f"{name}: {outside:.0f} % beyond".lstrip(": ")
            rows = rows[~rows["holds_beyond"]]
        if len(rows):
            edges, values = _with_gaps(rows, 100 * rows["share"].to_numpy())
            axes.stairs(values, edges, fill=True, alpha=0.3, color=colour)
            axes.stairs(values, edges, color=colour, lw=1.2, label=name or None)
    axes.locator_params(axis="x", nbins=7)
    _finish(axes, theme, frame, label, "share of area / %")


def against(axes: Any, frame: pd.DataFrame, label: str, theme: Theme = LIGHT, *, least_area_um2: float = 0.0) -> None:
    """`density_against()` (particles per µm²) or `neighbors_against()` (mean distance) in bins of a property.

    Bars are standard errors. least_area_um2 : bins with less area are left out of densities.
    """
    dense = "per_um2" in frame.columns
    value, error = ("per_um2", "per_um2_error") if dense else ("mean_nm", "mean_error_nm")
    for name, colour, rows in _groups(frame):
        if dense:
            rows = rows[rows["area_um2"] >= least_area_um2]
        middle = (rows["bin_min"] + rows["bin_max"]) / 2
        axes.errorbar(middle, rows[value], rows[error], fmt="o", ms=3.5, lw=1.2, color=colour, label=name or None)
        together = (rows["bin_min"] - rows["bin_max"].shift()).gt(1e-9).cumsum()  # no line over bins without a row
        for _, part in rows.groupby(together):
            axes.plot((part["bin_min"] + part["bin_max"]) / 2, part[value], color=colour, lw=1.2)
        if dense and rows["area_um2"].sum() > 0:
            axes.axhline(
                rows["n_particles"].sum() / rows["area_um2"].sum(), color=colour, lw=1, ls=(0, (4, 3)), alpha=0.7
            )
    axes.set_ylim(bottom=0)
    _finish(axes, theme, frame, label, "particles per µm²" if dense else "nearest neighbour / nm")


def angles(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """`in_plane_angles()`: share in % in each bin; even where particles are turned at random."""
    for name, colour, rows in _groups(frame):
        edges = [*rows["angle_min_degrees"], rows["angle_max_degrees"].iloc[-1]]
        axes.stairs(100 * rows["share"], edges, color=colour, lw=1.4, label=name or None)
    if len(frame):
        axes.set_xlim(0, float(frame["angle_max_degrees"][frame["n"] > 0].max()))
    _finish(axes, theme, frame, "in-plane angle to the nearest neighbour / °", "share / %")


def density_profile(axes: Any, frame: pd.DataFrame, theme: Theme = LIGHT) -> None:
    """`density_profile()`: mean density over the offset from midway between the leaflets."""
    for name, colour, rows in _groups(frame):
        middle = (rows["offset_min_nm"] + rows["offset_max_nm"]) / 2
        axes.plot(middle, rows["density_sigma"], color=colour, lw=1.8, label=name or None)
    axes.axhline(0.0, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7)
    _finish(axes, theme, frame, "offset along the normal / nm", "density / σ")


def style(axes: Any, theme: Theme) -> None:
    """The look of all curves: no frame above and at the right, quiet colours."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(colors=theme.text, labelsize=9, length=3)
    axes.xaxis.label.set(color=theme.text, size=10)
    axes.yaxis.label.set(color=theme.text, size=10)


def nothing_to_show(axes: Any, theme: Theme, why: str = "too few particles") -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", color=theme.text, size=10, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _curve(axes: Any, frame: pd.DataFrame, name: str, at_random: float, theme: Theme, *, middle: bool) -> None:
    axes.axhline(at_random, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7, label="at random")
    known = name + "_low" in frame.columns and bool(frame[name + "_low"].notna().any())
    for label, colour, rows in _groups(frame):
        r = (rows["r_min_nm"] + rows["r_max_nm"]) / 2 if middle else rows["r_max_nm"]
        if known:
            axes.fill_between(r, rows[name + "_low"], rows[name + "_high"], color=colour, alpha=0.18, lw=0)
        axes.plot(r, rows[name], color=colour, lw=1.9, label=label or "found")
    if known:
        axes.fill_between([], [], [], color=theme.text, alpha=0.18, lw=0, label="95 % at random")
    if len(frame):
        axes.set_xlim(0, float(frame["r_max_nm"].max()))


def top_of(found: NDArray[np.float64], limits: NDArray[np.float64]) -> float | None:
    """The upper end of g's axis: all that was found, but not the envelope where hardly a pair is expected."""
    found, limits = found[np.isfinite(found)], limits[np.isfinite(limits)]
    tops = [*([float(found.max())] if found.size else []), *([float(np.percentile(limits, 75))] if limits.size else [])]
    return max(2.0, 1.08 * max(tops)) if tops else None


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(label, colour, rows) of each group; the label is empty where there is one."""
    names = _group_names(frame)
    if not names:
        yield "", SERIES[0], frame
        return
    found = list(frame.groupby(names, dropna=False, observed=True, sort=False))[:_MOST_GROUPS]
    for number, (group, rows) in enumerate(found):
        label = "" if len(found) == 1 else _label(dict(zip(names, group, strict=True)))
        yield label, SERIES[number % len(SERIES)], rows


def _group_names(frame: pd.DataFrame) -> list[str]:
    """The columns in front of what is measured."""
    names: list[str] = []
    for column in frame.columns:
        if column in _MEASURES:
            break
        names.append(column)
    return names


def _label(group: dict[str, Any]) -> str:
    words = [_word(name, value) for name, value in group.items() if name not in _PAIR]
    kinds = [str(group[name]) for name in _PAIR if name in group]
    if kinds:
        words.append(kinds[0] if len(set(kinds)) == 1 else " → ".join(kinds))
    return ", ".join(words)


def _word(name: str, value: Any) -> str:
    if name == "leaflet":
        return {0: "larger leaflet", 1: "smaller leaflet"}.get(value, "leaflet unknown")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_gaps(rows: pd.DataFrame, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges and values with zeros in the bins that have no row."""
    edges, filled = [float(rows["bin_min"].iloc[0])], []
    for low, high, value in zip(rows["bin_min"], rows["bin_max"], values, strict=True):
        if low > edges[-1] + 1e-9:
            edges.append(float(low))
            filled.append(0.0)
        edges.append(float(high))
        filled.append(float(value))
    return np.array(edges), np.array(filled)


def _finish(axes: Any, theme: Theme, frame: pd.DataFrame, x_label: str, y_label: str) -> None:
    style(axes, theme)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if not len(frame):
        nothing_to_show(axes, theme)
        return
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)

"""Two surfaces in one figure: the distances between them, as histograms and painted on both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from membrain_cloud.report.figures import png
from membrain_cloud.report.plots import nothing_to_show, style
from membrain_cloud.report.rendering import Camera, render
from membrain_cloud.report.theme import LIGHT, SERIES, Theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from membrain_cloud.geometry import Mesh

_DIRECTIONS = ("first to second", "second to first")
_PAINTED = ("first, by its distance to the second", "second, by its distance to the first")
_BINS, _PIXELS, _DPI = 40, 640, 120
# The histogram ends at this many tolerances.
_HISTOGRAM_TOLERANCES = 4.0
_COLOURS = "viridis"

Floats = NDArray[np.float64]


def mesh_figure(
    distances: Sequence[Floats],
    surfaces: Sequence[tuple[Mesh, Floats]],
    *,
    where: str,
    tolerance_angstrom: float,
    title: str,
    theme: Theme = LIGHT,
) -> bytes:
    """Draw histograms of the distances in both directions, and both surfaces coloured by them.

    Parameters
    ----------
    distances : sequence of 2 (N,) float64 arrays
        Distances from the first surface to the second, and from the second to the first, Å. Each value stands for an
        equal part of the area; an array may be empty. The last bar holds all beyond four tolerances.
    surfaces : sequence of (Mesh, (V,) float64 array)
        The first and the second surface, each with the distances of its vertices, Å. Empty draws no surfaces.
    where : str
        The tomogram of these surfaces, for the headings.
    tolerance_angstrom : float
        Tolerance of the comparison, Å, drawn as a line.
    title : str
        Heading of the figure.
    theme : Theme
        Colours of labels and axes.

    Returns
    -------
    bytes
        A PNG.
    """
    figure = Figure(figsize=(12.5, 4.0), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=(1.1, 1.0, 1.0))
    histogram = figure.add_subplot(grid[0])
    _draw_histogram(histogram, distances, tolerance_angstrom, theme)
    # Colours end at twice the tolerance: beyond it, how far a surface is does not matter.
    scale = Normalize(0.0, 2.0 * tolerance_angstrom, clip=True)
    panels = [figure.add_subplot(grid[k + 1]) for k in range(2)]
    for axes, name, picture in zip(panels, _PAINTED, _pictures(surfaces, scale), strict=True):
        axes.set_axis_off()
        axes.set_title(f"{where}: {name}".lstrip(": "), color=theme.text, fontsize=10)
        if picture is None:
            nothing_to_show(axes, theme, "no meshes to compare")
        else:
            axes.imshow(picture, interpolation="nearest")
    bar = figure.colorbar(ScalarMappable(scale, _COLOURS), ax=panels, extend="max", shrink=0.8, aspect=30)
    bar.set_label("distance / Å", color=theme.text)
    bar.ax.axhline(tolerance_angstrom, color="white", lw=1.4)
    bar.ax.tick_params(colors=theme.text, labelsize=9)
    figure.suptitle(title, color=theme.text, fontsize=10)
    return png(figure, opaque=True)


def _draw_histogram(axes: Axes, distances: Sequence[Floats], tolerance: float, theme: Theme) -> None:
    """Draw the share of area by distance, in both directions."""
    style(axes, theme)
    axes.set_xlabel("distance to the nearest point of the other / Å")
    axes.set_ylabel("share of area / %")
    if not any(len(values) for values in distances):
        nothing_to_show(axes, theme, "no distances")
        return
    # The last bar holds all larger distances: a few of them would squeeze the others into one bar.
    top = _HISTOGRAM_TOLERANCES * tolerance
    edges = np.linspace(0.0, top, _BINS + 1)
    for values, name, colour in zip(distances, _DIRECTIONS, SERIES, strict=False):
        if not len(values):
            continue
        counts, _ = np.histogram(np.minimum(values, top), edges)
        shares = 100.0 * counts / len(values)
        axes.stairs(shares, edges, fill=True, alpha=0.3, color=colour)
        beyond = 100.0 * float(np.mean(values > top))
        more = f", {beyond:.1f} % beyond {top:g} Å" if beyond else ""
        axes.stairs(shares, edges, color=colour, lw=1.3, label=f"{name}: median {np.median(values):.1f} Å{more}")
    axes.axvline(tolerance, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.8, label=f"tolerance {tolerance:g} Å")
    axes.set_xlim(0.0, top)
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)


def _pictures(surfaces: Sequence[tuple[Mesh, Floats]], scale: Normalize) -> list[NDArray[np.float32] | None]:
    """Render both surfaces from one direction and at one scale."""
    if not surfaces:
        return [None, None]
    used = [mesh.vertices[mesh.faces.reshape(-1)] for mesh, _ in surfaces]
    low, high = np.min([p.min(0) for p in used], axis=0), np.max([p.max(0) for p in used], axis=0)
    # A flat box, of a sheet or a tube along an axis, would give a picture of no width or of no end.
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    half = np.maximum(half, max(float(half.max()) / 2.0, 1.0))
    low, high = middle - half, middle + half
    camera = Camera(tuple(low.tolist()), tuple(high.tolist()), -62.0, 38.0, _PIXELS)
    paint = matplotlib.colormaps[_COLOURS]
    return [render([(mesh, np.asarray(paint(scale(values)))[:, :3])], [], camera) for mesh, values in surfaces]

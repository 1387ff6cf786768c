"""The figures of a report, each as the bytes of a PNG. Drawn by matplotlib's object-oriented API: no global state."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.spatial import cKDTree

from membrain_cloud.report import plots
from membrain_cloud.report.rendering import Camera, render
from membrain_cloud.report.theme import SERIES, Theme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks
    from membrain_cloud.report.data import Curves, SliceView, StatisticsReport

PICK_COLOUR = "#ffd23f"

_Panel = tuple[str, Callable[..., None]]
_MAX_SLICE_PIXELS = 640
_DPI = 100
# The twelve edges of a box, as pairs of corners that differ in one bit.
_BOX_EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]


def membrane_colour(membrane_id: int) -> str:
    """The colour a membrane has in every figure and table of the page."""
    return SERIES[(membrane_id - 1) % len(SERIES)]


def density_figure(view: SliceView) -> bytes:
    """The grey slice alone, 8 bit, at most 640 pixels long: grey values between the 0.5th and 99.5th percentile."""
    density = _reduced(np.asarray(view.density, np.float32))
    finite = density[np.isfinite(density)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(density, nan=float(low)) - low) / max(high - low, 1e-12), 0, 1)
    stream = io.BytesIO()
    Image.fromarray((scaled[::-1] * 255).round().astype(np.uint8)).save(stream, "png", optimize=True)
    return stream.getvalue()


def slice_figure(view: SliceView, grid: Grid, picks: Picks | None, truth_picks: Picks | None, *, width: int) -> bytes:
    """Membranes, picks and a scale bar, transparent, to lie exactly over `density_figure`.

    Membranes are filled and outlined in their own colour. Picks within 60 Å of the plane are filled discs, true
    particles rings around them.
    """
    rows, columns = view.density.shape
    figure = Figure(figsize=(width / _DPI, width * rows / columns / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-0.5, rows - 0.5)
    _draw_instances(axes, np.asarray(view.instances))
    size = width / 100
    if truth_picks is not None:
        near = _in_plane(truth_picks, view, grid)
        axes.plot(*near, "o", ms=size * 1.9, mfc="none", mec="black", mew=size * 0.34, alpha=0.55)
        axes.plot(*near, "o", ms=size * 1.9, mfc="none", mec="white", mew=size * 0.19)
    if picks is not None:
        axes.plot(*_in_plane(picks, view, grid), "o", ms=size * 0.95, mfc=PICK_COLOUR, mec="black", mew=size * 0.08)
    _draw_scale_bar(axes, columns, rows, grid.voxel_spacing_angstrom, size)
    return png(figure)


def surface_figure(
    meshes: Mapping[int, Mesh], picks: Picks | None, grid: Grid, *, width: int, azimuth_degrees: float = -62.0
) -> bytes:
    """Membranes in colour in the tomogram's box, seen from above, and picks as small spheres on them; transparent.

    Picks that a membrane hides shine through faintly.
    """
    camera = Camera((0.0, 0.0, 0.0), grid.size_angstrom, azimuth_degrees, 38.0, width)
    radius_angstrom = 0.0105 * float(np.linalg.norm(grid.size_angstrom))
    centres = np.zeros((0, 3)) if picks is None else _lifted(picks, meshes)
    coloured = [(mesh, to_rgb(membrane_colour(i))) for i, mesh in sorted(meshes.items()) if len(mesh.faces)]
    image = render(coloured, [(centres, radius_angstrom, to_rgb(PICK_COLOUR))], camera)
    figure = Figure(figsize=(width / _DPI, camera.height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    corners = camera.project(camera.corners())
    farthest = int(np.argmin(corners[:, 2]))
    for i, j in _BOX_EDGES:
        behind = farthest in (i, j)
        axes.plot(
            *corners[[i, j], :2].T, color="#8b94a3", lw=1.0, alpha=0.9 if behind else 0.45, zorder=1 if behind else 3
        )
    axes.imshow(image, extent=(-0.5, width - 0.5, camera.height - 0.5, -0.5), zorder=2, interpolation="nearest")
    diameter_points = 2 * radius_angstrom * camera.pixels_per_angstrom * 72 / _DPI
    axes.plot(
        *camera.project(centres)[:, :2].T, "o", ms=0.8 * diameter_points, mfc=PICK_COLOUR, mew=0, alpha=0.3, zorder=4
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(camera.height - 0.5, -0.5)
    _label_box(axes, corners, grid)
    return png(figure)


def _lifted(picks: Picks, meshes: Mapping[int, Mesh]) -> NDArray[np.float64]:
    """Where to draw picks so that membranes do not hide them: on the surface of the shell, on the particle's side.

    A centre may lie inside the slab. It goes to the vertex nearest to it, looked for on its own side where the
    orientation tells it; a pick far from every membrane stays where it is.
    """
    vertices = [mesh.vertices for mesh in meshes.values() if len(mesh.vertices)]
    if not vertices or not len(picks):
        return picks.positions
    surface = np.concatenate(vertices)
    sides = 0.0 if picks.orientations is None else 40.0 * picks.orientations[:, :, 2]
    distance, nearest = cKDTree(surface).query(picks.positions + sides)
    return np.where((distance < 60.0)[:, None], surface[nearest], picks.positions)


def _label_box(axes: Any, corners: NDArray[np.float64], grid: Grid) -> None:
    """The length of the box along x, y and z, each at the edge that lies farthest out in the image."""
    middle = corners[:, :2].mean(0)
    for axis, (name, length) in enumerate(zip("xyz", grid.size_angstrom, strict=True)):
        edges = [corners[[i, i | 1 << axis], :2].mean(0) for i in range(8) if not i >> axis & 1]
        if name == "z":
            column, row = min(edges, key=lambda edge: edge[0])
        else:
            column, row = max(edges, key=lambda edge: edge[1])
        label, style = f"{name} {length / 10:.0f} nm", {"color": "#7d8797", "size": 12.5}
        if name == "z":
            axes.text(column - 6, row, rotation=90, ha="right", va="center", s=label, **style)
        else:
            left = column < middle[0]
            axes.text(column, row + 8, ha="right" if left else "left", va="top", s=label, **style)


def curves_figure(curves: Curves, theme: Theme) -> bytes:
    """Three panels: nearest-neighbour distances, g(r), and Ripley's L(r) less that at random; geodesic, in nm."""
    figure = Figure(figsize=(12.0, 3.1), dpi=_DPI * 1.5, layout="constrained")
    histogram, correlation, ripley = figure.subplots(1, 3)
    _draw_neighbors(histogram, curves, theme)
    labels = "pair correlation g(r)", "Ripley's L(r), less at random / nm"
    _draw_curve(correlation, curves.radii_nm, curves.pair_correlation, curves.random_correlation, 1.0, labels[0], theme)
    _draw_curve(ripley, curves.radii_nm, curves.l_difference_nm, curves.random_l_difference_nm, 0.0, labels[1], theme)
    limits = np.zeros(0) if curves.random_correlation is None else curves.random_correlation[1]
    correlation.set_ylim(0, plots.top_of(curves.pair_correlation, limits))
    for axes in (histogram, correlation, ripley):
        plots.style(axes, theme)
    return png(figure)


def statistics_figure(found: StatisticsReport, theme: Theme) -> bytes:
    """Over all tomograms: how particles lie to each other above, how membranes are below; what is known of it."""
    above: list[_Panel] = [
        ("neighbors", plots.nearest_neighbors),
        ("ripley", plots.pair_correlation),
        ("ripley", plots.l_function),
    ]
    below: list[_Panel] = [
        ("curvature", functools.partial(plots.histogram, label="mean curvature / nm⁻¹")),
        ("thickness", plots.density_profile),
        ("gaps", functools.partial(plots.histogram, label="distance to the next membrane / nm", beyond=False)),
    ]
    figure = Figure(figsize=(12.0, 6.2), dpi=_DPI * 1.5, layout="constrained")
    for axes, (name, draw) in zip(figure.subplots(2, 3).ravel(), [*above, *below], strict=True):
        frame = getattr(found, name)
        if len(frame):
            draw(axes, frame, theme=theme)
        else:
            plots.style(axes, theme)
            plots.nothing_to_show(axes, theme, "too few particles" if name in ("neighbors", "ripley") else "not known")
    return png(figure)


def _draw_neighbors(axes: Any, curves: Curves, theme: Theme) -> None:
    found = _finite(curves.neighbor_distances_nm)
    truth = _finite(curves.truth_neighbor_distances_nm)
    axes.set_xlabel("geodesic distance to the nearest neighbour / nm")
    axes.set_ylabel("share of particles / %")
    if not found.size and not truth.size:
        plots.nothing_to_show(axes, theme)
        return
    bins = int(np.clip(2 * max(found.size, truth.size) ** 0.5, 6, 40))
    edges = np.linspace(0, float(np.percentile(np.concatenate([found, truth]), 99.5)) * 1.02 + 1e-9, bins + 1)
    if found.size:
        axes.hist(found, edges, weights=np.full(found.size, 100 / found.size), color=theme.fill, label="found")
        axes.axvline(float(np.median(found)), color=theme.line, lw=1.4, label=f"median {np.median(found):.1f} nm")
    if truth.size:
        share = np.full(truth.size, 100 / truth.size)
        axes.hist(truth, edges, weights=share, histtype="step", color=theme.truth, lw=1.4, label="truth")
    axes.set_xlim(0.0, edges[-1])
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)


def _draw_curve(
    axes: Any, radii: NDArray, values: NDArray, limits: NDArray | None, at_random: float, label: str, theme: Theme
) -> None:
    """Limits : (2, B) the envelope of what is random; None: not known."""
    axes.set_xlabel("geodesic distance r / nm")
    axes.set_ylabel(label)
    if not np.isfinite(values).any():
        plots.nothing_to_show(axes, theme)
        return
    axes.axhline(at_random, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7, label="at random")
    if limits is not None:
        axes.fill_between(radii, *limits, color=theme.text, alpha=0.15, lw=0, label="95 % at random")
    axes.plot(radii, values, color=theme.line, lw=1.9, label="found")
    axes.set_xlim(0, float(radii.max()))
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)


def _draw_instances(axes: Any, instances: NDArray[np.integer]) -> None:
    fill = np.zeros((*instances.shape, 4))
    for membrane_id in np.unique(instances[instances > 0]):
        mask = instances == membrane_id
        colour = to_rgb(membrane_colour(int(membrane_id)))
        fill[mask] = (*colour, 0.28)
        if mask.shape[0] > 1 and mask.shape[1] > 1:
            # a frame of background closes outlines at the slice's border
            x, y = (np.arange(-1, n + 1) for n in mask.shape[::-1])
            axes.contour(x, y, np.pad(mask, 1).astype(float), [0.5], colors=[colour], linewidths=1.6)
    rows, columns = instances.shape
    axes.imshow(
        fill, extent=(-0.5, columns - 0.5, -0.5, rows - 0.5), origin="lower", interpolation="nearest", aspect="auto"
    )


def _in_plane(picks: Picks, view: SliceView, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows of the picks within 60 Å of the plane."""
    z, y, x = grid.to_voxels(picks.positions).T
    across, row = (z, y) if view.plane == "xy" else (y, z)
    near = np.abs(across - view.index) * grid.voxel_spacing_angstrom <= 60.0
    return x[near], row[near]


def _draw_scale_bar(axes: Any, columns: int, rows: int, voxel_spacing_angstrom: float, size: float) -> None:
    """A bar of a round length, near a fifth of the width, in the lower right corner."""
    width_nm = columns * voxel_spacing_angstrom / 10
    steps = np.outer(10.0 ** np.arange(-2, 6), [1, 2, 5]).ravel()
    length_nm = float(steps[steps <= width_nm / 4][-1])
    pixels = length_nm * 10 / voxel_spacing_angstrom
    right, bottom = columns * 0.97, columns * 0.03
    shadow = [withStroke(linewidth=size * 0.75, foreground="#0009")]
    axes.plot([right - pixels, right], [bottom, bottom], "w-", lw=size * 0.45, path_effects=shadow)
    text = axes.text(right - pixels / 2, bottom + columns * 0.012, f"{length_nm:g} nm", ha="center", va="bottom")
    text.set(color="white", size=size * 1.35, path_effects=[withStroke(linewidth=size * 0.35, foreground="#000a")])


def _reduced(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average squares of pixels until the longer side has at most 640."""
    factor = -(-max(density.shape) // _MAX_SLICE_PIXELS)
    if factor == 1:
        return density
    padding = [(0, -n % factor) for n in density.shape]
    rows, columns = ((n + p[1]) // factor for n, p in zip(density.shape, padding, strict=True))
    return np.pad(density, padding, mode="edge").reshape(rows, factor, columns, factor).mean(axis=(1, 3))


def _finite(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    array = np.zeros(0) if values is None else np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def png(figure: Figure, *, opaque: bool = False) -> bytes:
    """The bytes of a PNG; transparent unless `opaque`."""
    figure.patch.set_alpha(1 if opaque else 0)
    stream = io.BytesIO()
    # without the name and version of the software, equal figures are equal bytes
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()

"""The figures of a report, each as the bytes of a PNG. They use matplotlib's object-oriented API: no global state."""

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
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks
    from membrain_cloud.report.data import Curves, SliceView, StatisticsReport

PICK_COLOUR = "#ffd23f"

_Panel = tuple[str, Callable[..., None]]
_MAX_SLICE_PIXELS = 640
_DPI = 100
# Particles at most this far (Å) from a plane are drawn in it.
_SLICE_DEPTH_ANGSTROM = 60.0
# The twelve edges of a box, as pairs of corners that differ in one bit.
_BOX_EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]


def membrane_colour(membrane_id: int) -> str:
    """Return the colour of a membrane in all figures and tables of the page.

    Parameters
    ----------
    membrane_id : int
        Number of the membrane, from 1.
    """
    return SERIES[(membrane_id - 1) % len(SERIES)]


def density_figure(view: SliceView) -> bytes:
    """Draw the density of a slice alone, with grey values between its 0.5th and 99.5th percentile.

    Parameters
    ----------
    view : SliceView
        The slice.

    Returns
    -------
    bytes
        An 8-bit grey PNG of at most 640 pixels along the longer side.
    """
    density = _reduced(np.asarray(view.density, np.float32))
    finite = density[np.isfinite(density)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(density, nan=float(low)) - low) / max(high - low, 1e-12), 0, 1)
    stream = io.BytesIO()
    Image.fromarray((scaled[::-1] * 255).round().astype(np.uint8)).save(stream, "png", optimize=True)
    return stream.getvalue()


def slice_figure(view: SliceView, grid: Grid, picks: Picks | None, truth_picks: Picks | None, *, width: int) -> bytes:
    """Draw membranes, particles and a scale bar, to lie exactly over `density_figure`.

    Membranes are filled and outlined in their own colour. Particles within 60 Å of the plane are discs, true particles
    are rings around them.

    Parameters
    ----------
    view : SliceView
        The slice.
    grid : Grid
        Voxel grid of the tomogram.
    picks, truth_picks : Picks or None
        Particles, and the true particles.
    width : int
        Width of the image in pixels.

    Returns
    -------
    bytes
        A transparent PNG.
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
    _draw_scale_bar(axes, columns, grid.voxel_spacing_angstrom, size)
    return png(figure)


def surface_figure(
    meshes: Mapping[int, Mesh], picks: Picks | None, grid: Grid, *, width: int, azimuth_degrees: float = -62.0
) -> bytes:
    """Draw membranes in the tomogram's box, seen from above, and particles as small spheres on them.

    Particles behind a membrane shine through faintly.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of the membrane -> its mesh.
    picks : Picks or None
        Particles.
    grid : Grid
        Voxel grid of the tomogram.
    width : int
        Width of the image in pixels.
    azimuth_degrees : float
        Direction of the viewer, counted from the x axis.

    Returns
    -------
    bytes
        A transparent PNG.
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
    """Return positions (N, 3) at which particles are drawn, so that their own membrane does not hide them.

    A centre may lie inside the membrane. It moves to the nearest vertex, on the side that the particle's z axis points
    to if that is known. Particles far from every membrane stay where they are.
    """
    vertices = [mesh.vertices for mesh in meshes.values() if len(mesh.vertices)]
    if not vertices or not len(picks):
        return picks.positions
    surface = np.concatenate(vertices)
    sides = 0.0 if picks.orientations is None else 40.0 * picks.orientations[:, :, 2]
    distance, nearest = cKDTree(surface).query(picks.positions + sides)
    return np.where((distance < 60.0)[:, None], surface[nearest], picks.positions)


def _label_box(axes: Axes, corners: NDArray[np.float64], grid: Grid) -> None:
    """Write the box's lengths along x, y and z, each at the edge that lies farthest out in the image."""
    middle = corners[:, :2].mean(0)
    for axis, (name, length) in enumerate(zip("xyz", grid.size_angstrom, strict=True)):
        edges = [corners[[i, i | 1 << axis], :2].mean(0) for i in range(8) if not i >> axis & 1]
        if name == "z":
            column, row = min(edges, key=lambda edge: float(edge[0]))
        else:
            column, row = max(edges, key=lambda edge: float(edge[1]))
        label = f"{name} {length / ANGSTROM_PER_NM:.0f} nm"
        style: dict[str, Any] = {"color": "#7d8797", "size": 12.5}
        if name == "z":
            axes.text(column - 6, row, rotation=90, ha="right", va="center", s=label, **style)
        else:
            left = column < middle[0]
            axes.text(column, row + 8, ha="right" if left else "left", va="top", s=label, **style)


def curves_figure(curves: Curves, theme: Theme) -> bytes:
    """Draw nearest-neighbour distances, g(r), and Ripley's L(r) less that at random, in three panels.

    Parameters
    ----------
    curves : Curves
        The distances and curves; empty ones leave a remark in their panel.
    theme : Theme
        Colours.

    Returns
    -------
    bytes
        A transparent PNG.
    """
    figure = Figure(figsize=(12.0, 3.1), dpi=_DPI * 1.5, layout="constrained")
    histogram, correlation, ripley = figure.subplots(1, 3)
    _draw_neighbors(histogram, curves, theme)
    radii = curves.radii_nm
    for axes, values, limits, at_random, label in (
        (correlation, curves.pair_correlation, curves.random_correlation, 1.0, "pair correlation g(r)"),
        (ripley, curves.l_difference_nm, curves.random_l_difference_nm, 0.0, "Ripley's L(r) - random / nm"),
    ):
        axes.set_xlabel("geodesic distance r / nm")
        axes.set_ylabel(label)
        if np.isfinite(values).any():
            _draw_curve(axes, radii, values, limits, theme, at_random=at_random)
        else:
            plots.nothing_to_show(axes, theme)
    limits = np.zeros(0) if curves.random_correlation is None else curves.random_correlation[1]
    correlation.set_ylim(0, plots.top_of(curves.pair_correlation, limits))
    for axes in (histogram, correlation, ripley):
        plots.style(axes, theme)
    return png(figure)


def statistics_figure(report: StatisticsReport, theme: Theme) -> bytes:
    """Draw statistics over all tomograms: of particles in the upper row, of membranes in the lower one.

    Parameters
    ----------
    report : StatisticsReport
        The frames to draw; those without rows leave a remark in their panel.
    theme : Theme
        Colours.

    Returns
    -------
    bytes
        A transparent PNG.
    """
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
        frame = getattr(report, name)
        if len(frame):
            draw(axes, frame, theme=theme)
        else:
            plots.style(axes, theme)
            plots.nothing_to_show(axes, theme, "too few particles" if name in ("neighbors", "ripley") else "unknown")
    return png(figure)


def _draw_neighbors(axes: Axes, curves: Curves, theme: Theme) -> None:
    """Draw histograms of the distances to the nearest neighbour, observed and true."""
    observed = _finite(curves.neighbor_distances_nm)
    truth = _finite(curves.truth_neighbor_distances_nm)
    axes.set_xlabel("geodesic distance to the nearest neighbour / nm")
    axes.set_ylabel("share of particles / %")
    if not observed.size and not truth.size:
        plots.nothing_to_show(axes, theme)
        return
    bins = int(np.clip(2 * max(observed.size, truth.size) ** 0.5, 6, 40))
    top = float(np.percentile(np.concatenate([observed, truth]), 99.5)) * 1.02 + 1e-9
    edges = np.linspace(0, top, bins + 1).tolist()
    if observed.size:
        axes.hist(
            observed, edges, weights=np.full(observed.size, 100 / observed.size), color=theme.fill, label="observed"
        )
        median = float(np.median(observed))
        axes.axvline(median, color=theme.line, lw=1.4, label=f"median {median:.1f} nm")
    if truth.size:
        share = np.full(truth.size, 100 / truth.size)
        axes.hist(truth, edges, weights=share, histtype="step", color=theme.truth, lw=1.4, label="truth")
    axes.set_xlim(0.0, edges[-1])
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)


def _draw_curve(
    axes: Axes,
    radii: NDArray[np.float64],
    values: NDArray[np.float64],
    limits: NDArray[np.float64] | None,
    theme: Theme,
    *,
    at_random: float,
) -> None:
    """Draw a curve (B,), its value at random, and the (2, B) envelope of random patterns if it is known."""
    axes.axhline(at_random, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.7, label="at random")
    if limits is not None:
        axes.fill_between(radii, *limits, color=theme.text, alpha=0.15, lw=0, label="95 % at random")
    axes.plot(radii, values, color=theme.line, lw=1.9, label="observed")
    axes.set_xlim(0, float(radii.max()))
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.text)


def _draw_instances(axes: Axes, instances: NDArray[np.integer]) -> None:
    """Fill and outline the membranes of a slice."""
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
    """Return the columns and rows of the particles near the plane."""
    z, y, x = grid.to_voxels(picks.positions).T
    across, row = (z, y) if view.plane == "xy" else (y, z)
    near = np.abs(across - view.index) * grid.voxel_spacing_angstrom <= _SLICE_DEPTH_ANGSTROM
    return x[near], row[near]


def _draw_scale_bar(axes: Axes, columns: int, voxel_spacing_angstrom: float, size: float) -> None:
    """Draw a bar of a round length, at most a quarter of the width, in the lower right corner."""
    width_nm = columns * voxel_spacing_angstrom / ANGSTROM_PER_NM
    steps = np.outer(10.0 ** np.arange(-2, 6), [1, 2, 5]).ravel()
    length_nm = float(steps[steps <= width_nm / 4][-1])
    pixels = length_nm * ANGSTROM_PER_NM / voxel_spacing_angstrom
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
    squares = np.pad(density, padding, mode="edge").reshape(rows, factor, columns, factor)
    return np.asarray(squares.mean(axis=(1, 3)))


def _finite(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the finite values; none if `values` is None."""
    array = np.zeros(0) if values is None else np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def png(figure: Figure, *, opaque: bool = False) -> bytes:
    """Write a figure as a PNG.

    Parameters
    ----------
    figure : Figure
        The figure.
    opaque : bool
        Draw the background; by default it is transparent.

    Returns
    -------
    bytes
        The file; equal figures give equal bytes.
    """
    figure.patch.set_alpha(1 if opaque else 0)
    stream = io.BytesIO()
    # Matplotlib would write its name and version into the file.
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()

"""The report: one self-contained HTML file, which loads nothing from the network."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from membrain_cloud.report.data import Column, MembraneRow, ReportData, SliceView, Table, TomogramReport
from membrain_cloud.report.figures import (
    PICK_COLOUR,
    curves_figure,
    density_figure,
    membrane_colour,
    slice_figure,
    statistics_figure,
    surface_figure,
)
from membrain_cloud.report.theme import DARK, LIGHT
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN = "–"

MAX_DRAWN = 24
"""Tomograms with figures. One takes about 0.7 MB, so more would make the page slow to open."""

_THIN_SPACE = "\u2009"
_SLICE_WIDTH, _SURFACE_WIDTH = 900, 760


def render_page(data: ReportData) -> str:
    """Render the whole report.

    The first `MAX_DRAWN` tomograms have figures, the others a row in the overview. Names and messages are escaped. A
    Content-Security-Policy forbids the page all requests.

    Parameters
    ----------
    data : ReportData
        The page's data.

    Returns
    -------
    str
        HTML; equal data give equal text.
    """
    template = make_environment().get_template("page.html")
    # With one tomogram, its curves repeat those of the statistics, unless they show the ground truth.
    alone = len(data.tomograms) == 1 and data.statistics is not None
    tomograms = [_drawn(tomogram, index, alone=alone) for index, tomogram in enumerate(data.tomograms[:MAX_DRAWN])]
    table = overview(data.tomograms)
    if len(data.tomograms) > MAX_DRAWN:
        note = f"Figures follow for the first {MAX_DRAWN} tomograms. Make a report of selected runs to see others."
        table = replace(table, note=note)
    pictures = None
    if data.statistics is not None:
        pictures = tuple(_data_uri(statistics_figure(data.statistics, theme)) for theme in (LIGHT, DARK))
    return template.render(
        data=data, tomograms=tomograms, overview=table, statistics=pictures, pick_colour=PICK_COLOUR, is_low=_is_low
    )


def make_environment() -> Environment:
    """Return the environment of the templates in this folder. It escapes all values."""
    environment = Environment(
        loader=PackageLoader("membrain_cloud.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, cell=format_cell, colour=membrane_colour)
    return environment


def overview(tomograms: Iterable[TomogramReport]) -> Table:
    """Make the table of all tomograms.

    Parameters
    ----------
    tomograms : iterable of TomogramReport
        The tomograms.

    Returns
    -------
    Table
        One row a tomogram; sums of the known values in the footer.
    """
    rows = [_overview_row(tomogram) for tomogram in tomograms]
    columns = (
        Column("tomogram"),
        Column("size", "nm", help="extent along x, y, z"),
        Column("membranes", digits=0),
        Column("area", "nm²", 0, "one side of all membranes"),
        Column("particles", digits=0),
        Column("density", "1 / µm²", 0, "particles per one-sided area"),
        Column("nearest neighbour", "nm", 1, "median geodesic distance along the membrane"),
    )
    membranes, area, particles = (_sum(row[k] for row in rows) for k in (2, 3, 4))
    footer = ("all", None, membranes, area, particles, _per_um2(particles, area), None)
    return Table(columns, tuple(rows), footer if len(rows) > 1 else None)


def _overview_row(tomogram: TomogramReport) -> tuple[Any, ...]:
    """Return the cells of one tomogram."""
    area = _sum(row.area_nm2 for row in tomogram.membranes)
    particles = _sum(row.particles for row in tomogram.membranes)
    distances = tomogram.curves.neighbor_distances_nm
    finite = distances[np.isfinite(distances)]
    median = float(np.median(finite)) if finite.size else None
    n_membranes = len(tomogram.membranes)
    return tomogram.name, _size_nm(tomogram), n_membranes, area, particles, _per_um2(particles, area), median


def _size_nm(tomogram: TomogramReport) -> str:
    """Return the extent along x, y, z as text, e.g. "960 x 960 x 300" with multiplication signs."""
    return " × ".join(f"{length / ANGSTROM_PER_NM:.0f}" for length in tomogram.grid.size_angstrom)


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if there are none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers else None


def _per_um2(particles: float | None, area_nm2: float | None) -> float | None:
    """Return particles per µm²; None if either is unknown or there is no area."""
    return None if particles is None or not area_nm2 else 1e6 * particles / area_nm2


@dataclass(frozen=True)
class _DrawnSlice:
    """A slice with its figures as data URIs."""

    plane: str
    position: str
    density: Markup
    overlay: Markup
    height_by_width: float


@dataclass(frozen=True)
class _Drawn:
    """A tomogram with its figures as data URIs."""

    report: TomogramReport
    anchor: str
    size: str
    slices: list[_DrawnSlice]
    surface: Markup | None
    curves: Markup | None
    dark_curves: Markup | None
    membranes: list[MembraneRow]


def _drawn(tomogram: TomogramReport, index: int, *, alone: bool) -> _Drawn:
    """Draw the figures of one tomogram; `alone` leaves out curves that the statistics show already."""
    has_distances = bool(np.isfinite(tomogram.curves.neighbor_distances_nm).any() or tomogram.curves.radii_nm.size)
    has_distances = has_distances and not (alone and tomogram.curves.truth_neighbor_distances_nm is None)
    surface = None
    if any(len(mesh.faces) for mesh in tomogram.meshes.values()):
        surface = _data_uri(surface_figure(tomogram.meshes, tomogram.picks, tomogram.grid, width=_SURFACE_WIDTH))
    return _Drawn(
        report=tomogram,
        anchor=f"tomogram-{index + 1}",
        size=_size_nm(tomogram),
        slices=[_drawn_slice(view, tomogram) for view in tomogram.slices],
        surface=surface,
        curves=_data_uri(curves_figure(tomogram.curves, LIGHT)) if has_distances else None,
        dark_curves=_data_uri(curves_figure(tomogram.curves, DARK)) if has_distances else None,
        membranes=sorted(tomogram.membranes, key=lambda row: row.membrane_id),
    )


def _drawn_slice(view: SliceView, tomogram: TomogramReport) -> _DrawnSlice:
    """Draw the density and the overlay of one slice."""
    overlay = slice_figure(view, tomogram.grid, tomogram.picks, tomogram.truth_picks, width=_SLICE_WIDTH)
    axis = "z" if view.plane == "xy" else "y"
    rows, columns = view.density.shape
    return _DrawnSlice(
        plane=view.plane,
        position=f"{axis} = {view.index * tomogram.grid.voxel_spacing_angstrom / ANGSTROM_PER_NM:.0f} nm",
        density=_data_uri(density_figure(view)),
        overlay=_data_uri(overlay),
        height_by_width=round(rows / columns, 4),
    )


def _data_uri(png: bytes) -> Markup:
    """Return a PNG as a data URI."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode("ascii"))


def format_number(value: float | int | None, digits: int) -> str:
    """Format a number with thin spaces between thousands.

    Parameters
    ----------
    value : float, int or None
        The number; None, NaN and infinity are unknown.
    digits : int
        Decimals of a floating-point number.

    Returns
    -------
    str
        The number, or a dash if it is unknown.
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:,.{0 if isinstance(value, int) else digits}f}".replace(",", _THIN_SPACE)


def format_cell(value: Any, digits: int = 2) -> str:
    """Format any cell of a table.

    Parameters
    ----------
    value : object
        Text, number, boolean or None (unknown).
    digits : int
        Decimals of a floating-point number.

    Returns
    -------
    str
        The text of the cell.
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, np.generic):
        value = value.item()
    return format_number(value, digits) if isinstance(value, float | int) else str(value)


def _is_low(value: Any, column: Column) -> bool:
    """Tell whether a score is below the smallest acceptable one of its column."""
    return column.at_least is not None and isinstance(value, float | int) and value < column.at_least

"""The index of a run: one row and a small picture a tomogram, with links to each tomogram's own page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from membrain_cloud.report.figures import density_figure, slice_figure
from membrain_cloud.report.page import make_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.report.data import Number, TomogramReport

_PICTURE_WIDTH = 288


@dataclass(frozen=True)
class IndexRow:
    """One tomogram of the index; None is unknown.

    Parameters
    ----------
    name, dataset : str
        The run and its dataset.
    state : str
        "done", "to do", "failed", ...
    page, picture : str
        Relative links; empty if there is none.
    membranes : int or None
        Number of membranes.
    area_nm2 : float or None
        Area of one side of all membranes, nm².
    particles : int or None
        Number of particles.
    particles_per_um2 : float or None
        Particles per one-sided area, 1/µm².
    cause, next_step : str
        Of a failure: why, and what to do about it.
    """

    name: str
    dataset: str
    state: str
    page: str = ""
    picture: str = ""
    membranes: int | None = None
    area_nm2: float | None = None
    particles: int | None = None
    particles_per_um2: float | None = None
    cause: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class SiteIndex:
    """The data of the index page.

    Parameters
    ----------
    title : str
        Heading of the page.
    facts : tuple of (str, str)
        Lines of provenance.
    numbers : tuple of Number
        Numbers of the header.
    rows : sequence of IndexRow
        The tomograms.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    numbers: tuple[Number, ...]
    rows: Sequence[IndexRow]


def render_index(index: SiteIndex) -> str:
    """Render the index page.

    Parameters
    ----------
    index : SiteIndex
        The page's data. Names and messages are escaped.

    Returns
    -------
    str
        HTML; equal data give equal text.
    """
    return make_environment().get_template("site_index.html").render(index=index)


def thumbnail(report: TomogramReport) -> bytes:
    """Draw the first slice of a tomogram with membranes and particles, small.

    Parameters
    ----------
    report : TomogramReport
        The tomogram.

    Returns
    -------
    bytes
        A PNG; empty if the tomogram has no slice.
    """
    if not report.slices:
        return b""
    view = report.slices[0]
    overlay = Image.open(io.BytesIO(slice_figure(view, report.grid, report.picks, None, width=2 * _PICTURE_WIDTH)))
    grey = Image.open(io.BytesIO(density_figure(view))).convert("RGBA").resize(overlay.size)
    grey.alpha_composite(overlay.convert("RGBA"))
    height = max(1, round(_PICTURE_WIDTH * overlay.height / overlay.width))
    stream = io.BytesIO()
    grey.convert("RGB").resize((_PICTURE_WIDTH, height), Image.Resampling.LANCZOS).save(stream, "png", optimize=True)
    return stream.getvalue()

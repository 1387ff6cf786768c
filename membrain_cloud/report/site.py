"""The index of a whole run: a page with a row and a small picture a tomogram, which links to each one's own page."""

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
    """One tomogram. page, picture : relative links; empty where there is none. state : done, to do, failed, ..."""

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
    title: str
    facts: tuple[tuple[str, str], ...]
    numbers: tuple[Number, ...]
    rows: Sequence[IndexRow]


def render_index(index: SiteIndex) -> str:
    """The index as HTML: equal data give equal text. Names and messages from outside are escaped."""
    return make_environment().get_template("site_index.html").render(index=index)


def thumbnail(report: TomogramReport) -> bytes:
    """PNG of the middle slice with membranes and picks; empty where there is no slice."""
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

"""The index of a run: its rows, states and pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from membrain_cloud.report.data import Number
from membrain_cloud.report.site import IndexRow, SiteIndex, render_index, thumbnail

if TYPE_CHECKING:
    from membrain_cloud.report.data import ReportData


def test_rows_show_numbers_links_and_causes() -> None:
    rows = [
        IndexRow("TS_1", "d", "done", page="TS_1.html", picture="TS_1.png", membranes=3, area_nm2=1234.0, particles=7),
        IndexRow("TS_2", "d", "to do"),
        IndexRow("<b>", "d", "failed", cause="a chunk is missing", next_step="copy it again"),
    ]
    html = render_index(SiteIndex("my run", (("config", "c.json"),), (Number("tomograms", 3),), rows))
    assert '<a href="TS_1.html">TS_1</a>' in html
    assert 'src="TS_1.png"' in html
    assert "1\u2009234" in html
    assert 'class="state to-do"' in html
    assert "a chunk is missing" in html
    assert "copy it again" in html
    assert "&lt;b&gt;" in html
    assert "<td><b></td>" not in html
    assert html == render_index(SiteIndex("my run", (("config", "c.json"),), (Number("tomograms", 3),), rows))


def test_a_thumbnail_is_the_first_slice_with_its_membranes(data: ReportData) -> None:
    tomogram = data.tomograms[1]
    with Image.open(io.BytesIO(thumbnail(tomogram))) as image:
        assert image.size == (288, 288)
        colours = np.asarray(image.convert("RGB")).astype(int)
    assert (np.ptp(colours, axis=2) > 40).mean() > 0.02  # membranes and particles are coloured, density is grey
    assert thumbnail(replace(tomogram, slices=())) == b""

"""The page is self-contained, escapes names and messages, and shows the numbers of its data."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from membrain_cloud.geometry import Grid
from membrain_cloud.report.data import Column, Curves, Failure, MembraneRow, ReportData, Table, TomogramReport
from membrain_cloud.report.page import MAX_DRAWN, format_cell, format_number, overview, render_page


class Document(HTMLParser):
    """The tags of a page with their attributes, and its text; it fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "img", "input", "source", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_page(data)


def test_page_is_well_formed_and_loads_nothing(html: str) -> None:
    document = Document(html)
    assert document.open == []
    sources = [a["src"] for a in document.all("img")] + [a["srcset"] for a in document.all("source")]
    assert len(sources) == 1 + 2 * (2 * 2 + 2)
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)
    assert not document.all("link")
    assert all("src" not in attributes for attributes in document.all("script"))
    assert all((a["href"] or "").startswith("#") for a in document.all("a"))
    assert not re.search(r"https?://|url\(|@import", html)


def test_page_shows_the_numbers(html: str, data: ReportData) -> None:
    text = Document(html).text
    for expected in (
        "TS_001",
        "TS_002",
        "1\u2009234",
        "0.0725",
        "Surface-Dice",
        "0.930",
        "3 of 3",
        "membrain-cloud-small",
    ):
        assert expected in text
    assert "TS_009: chunk 0/1/2 is truncated" in text
    assert "copy the tomogram again, then run again" in text
    assert 'class="low"' in html  # 0.820 is under the 0.85 that the column asks for


def test_links_point_to_anchors_of_the_page(html: str) -> None:
    document = Document(html)
    anchors = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    assert {(a["href"] or "")[1:] for a in document.all("a")} <= set(anchors)


def test_page_is_the_same_every_time_and_small(html: str, data: ReportData) -> None:
    without_surfaces = dataclasses.replace(data, tomograms=data.tomograms[1:])
    assert render_page(without_surfaces) == render_page(without_surfaces)
    assert len(html) < 3_000_000


def test_names_and_messages_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    data = ReportData(
        title=evil,
        facts=((evil, evil),),
        failures=(Failure(evil, evil, evil, evil),),
        scores=Table((Column(evil, evil, help=evil),), ((evil,),), note=evil),
        tomograms=(TomogramReport(evil, Grid((4, 4, 4), 10.0), notes=(evil,)),) * 2,
        settings={evil: {evil: evil}},
    )
    html = render_page(data)
    document = Document(html)
    assert "<script>alert" not in html
    assert len(document.all("script")) == 1
    assert document.text.count(evil) >= 12


def test_empty_report_and_tomogram_without_results() -> None:
    html = render_page(ReportData(title="nothing yet", tomograms=(TomogramReport("TS_1", Grid((4, 4, 4), 10.0)),)))
    document = Document(html)
    assert document.open == []
    assert not document.all("img")
    assert "TS_1" in document.text
    assert Document(render_page(ReportData(title="nothing at all"))).open == []


def test_many_tomograms_have_a_row_each_and_the_first_have_figures() -> None:
    tomograms = tuple(TomogramReport(f"TS_{i:03}", Grid((4, 4, 4), 10.0)) for i in range(MAX_DRAWN + 5))
    document = Document(render_page(ReportData("many", tomograms=tomograms)))
    assert sum("tomogram" in (a.get("class") or "") for a in document.all("section")) == MAX_DRAWN
    assert f"TS_{MAX_DRAWN + 4:03}" in document.text
    assert f"the first {MAX_DRAWN}" in document.text


def test_overview_sums_known_values() -> None:
    grid = Grid((50, 100, 200), 10.0)
    one = TomogramReport(
        "a",
        grid,
        membranes=(MembraneRow(1, 1000.0, True, 4, 4000.0, 5.0), MembraneRow(2, None, None, None, None, None)),
        curves=Curves(neighbor_distances_nm=np.array([1.0, np.nan, 3.0])),
    )
    two = TomogramReport("b", grid, membranes=(MembraneRow(1, 3000.0, False, 2, 2e6 / 3e3, None),))
    table = overview([one, two, TomogramReport("c", grid)])
    assert table.rows[0] == ("a", "200 × 100 × 50", 2, 1000.0, 4, 4000.0, 2.0)
    assert table.rows[2] == ("c", "200 × 100 × 50", 0, None, None, None, None)
    assert table.footer == ("all", None, 3, 4000.0, 6, 1500.0, None)


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (None, 2, "–"),
        (float("nan"), 2, "–"),
        (float("inf"), 2, "–"),
        (1234567, 2, "1\u2009234\u2009567"),
        (1234.5678, 1, "1\u2009234.6"),
        (np.float32(0.5), 3, "0.500"),
        (np.int64(3), 3, "3"),
        (True, 0, "yes"),
        (np.False_, 0, "no"),
        ("3 of 4", 2, "3 of 4"),
    ],
)
def test_cells(value: object, digits: int, expected: str) -> None:
    assert format_cell(value, digits) == expected


def test_numbers_take_the_digits_of_their_column(data: ReportData) -> None:
    assert format_number(0.12345, 4) == "0.1235"
    twice = dataclasses.replace(data, tomograms=(), scores=Table((Column("x", digits=4),), ((0.12345,),)))
    assert "0.1235" in Document(render_page(twice)).text

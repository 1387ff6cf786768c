"""Tables of STAR files: values stay text, and rows that do not fit are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.formats.relion.tables import read_star_tables

if TYPE_CHECKING:
    from pathlib import Path


def tables_of(path: Path, text: str | bytes) -> list[tuple[str, dict[str, list[str]]]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(name, table.to_dict("list")) for name, table in read_star_tables(str(path))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data_p\n\nloop_\n_a #1\n_b #2\n00255 1.10\nNone nan\n",
         [("p", {"a": ["00255", "None"], "b": ["1.10", "nan"]})]),
        ("data_\nloop_\n_a\n_b\n'x y' \"\"\n", [("", {"a": ["x y"], "b": [""]})]),
        ("data_\nloop_\n_a\n_b\n5'-cap x#y\n", [("", {"a": ["5'-cap"], "b": ["x#y"]})]),
        ("data_\n\n_a 1\n_b\t'x y'\n_c\n", [("", {"a": ["1"], "b": ["x y"], "c": [""]})]),
        ("data_\nloop_\n_a #1\n_b #2\n\n", [("", {"a": [], "b": []})]),
        ("# v\r\ndata_\r\nloop_ \r\n_a #1\r\n# c\r\n1\r\n", [("", {"a": ["1"]})]),
        ("\ufeffdata_o\nloop_\n_a\ndata_x\n\ndata_p\nloop_\n_a\n_b\ndata_x 2\n",
         [("o", {"a": []}), ("x", {}), ("p", {"a": ["data_x"], "b": ["2"]})]),
        ("data_p\nloop_\n_a\n1\nloop_\n_b\n2\n", [("p", {"a": ["1"]}), ("p", {"b": ["2"]})]),
        ("data_p\nloop_\n_a\n1\ndata_p\nloop_\n_a\n2\n", [("p", {"a": ["1"]}), ("p", {"a": ["2"]})]),
        ("data_p\nloop_\n_a _b\n_c\n1 2\n", [("p", {"a": ["1"], "c": ["2"]})]),
    ],
)  # fmt: skip
def test_values_stay_text(tmp_path: Path, text: str, expected: list[tuple[str, dict[str, list[str]]]]) -> None:
    found = tables_of(tmp_path / "x.star", text)
    assert [pair for pair in found if pair[1]] == [pair for pair in expected if pair[1]]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"1 2 3\n", "no line `data_`"),
        (b"\x00\x01data_", "no text"),
        (b"data_p\nloop_\n_a\n_b\n1 2\n3\n", "row 2 of data_p has 1 values for 2 columns"),
        (b"data_p\nloop_\n_a\n_b\n1 2 3\n", "has 3 values for 2 columns"),
        (b"data_p\nloop_\n_a\n_a\n1 2\n", "the column a twice"),
        (b'data_p\nloop_\n_a\n_b\n1 "x\n2 y\n', "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    with pytest.raises(ProjectError, match=cause):
        tables_of(tmp_path / "x.star", content)


def test_the_bytes_of_latin_1_are_read(tmp_path: Path) -> None:
    assert tables_of(tmp_path / "x.star", b"data_\nloop_\n_a\n_b\n\xc5 1\n")[0][1]["a"] == ["Å"]


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    lambda text: not text.startswith("_") and not set(text) & set("\"'#")  # starfile quotes none of them
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(WORDS, st.integers(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_what_starfile_writes_is_read(tmp_path: Path, rows: list[tuple[str, int, float]]) -> None:
    """Whatever the package starfile writes comes back as the text that it wrote, or is refused by name."""
    table = pd.DataFrame(rows, columns=["rlnTomoName", "rlnMembrane", "rlnCoordinateX"])
    starfile.write({"particles": table}, tmp_path / "x.star", overwrite=True)
    (found,) = tables_of(tmp_path / "x.star", (tmp_path / "x.star").read_bytes())
    assert found[1]["rlnTomoName"] == [row[0] for row in rows]
    assert found[1]["rlnMembrane"] == [str(row[1]) for row in rows]
    assert found[1]["rlnCoordinateX"] == [f"{row[2]:.6f}" for row in rows]

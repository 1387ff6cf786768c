"""Tables on the terminal: cells, heads and width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.cli.display.tables import console, show_scores, show_table

if TYPE_CHECKING:
    import pytest


def test_cells_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("title", ("name", "value"), [("a", None), ("b", 1.23456), ("[c]", 7)])
    output = capsys.readouterr().out
    assert output.startswith("title\n")
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in output.splitlines() if "│" in line]
    assert lines == [["a", "-"], ["b", "1.235"], ["[c]", "7"]]


def test_where_output_is_no_terminal_lines_are_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    assert console().width == 200
    show_table("", ("column",), [("x" * 150,)])
    assert "x" * 150 in capsys.readouterr().out


def test_scores_have_a_column_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores([{"run": "TS_1", "dice": 0.5}, {"run": "TS_2", "dice": 0.25, "particle_f1": 1.0}])
    output = capsys.readouterr().out
    for text in ("TS_1", "TS_2", "particle f1", "0.500", "0.250", "-"):
        assert text in output

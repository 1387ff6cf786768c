"""Grouping and summing of rows."""

from __future__ import annotations

import pandas as pd
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.tables.grouping import group_columns, groups, joined, ratio, require_columns, sums, with_group

TABLE = pd.DataFrame({"run": ["b", "a", "b", None], "n": [1, 2, 3, 4], "area": [1.0, None, 2.0, 8.0]})


def test_columns_are_grouped_by_once() -> None:
    assert group_columns("run", "object_name") == ["run", "object_name"]
    assert group_columns(["object_name", "run"], "object_name") == ["object_name", "run"]
    assert group_columns(()) == []


def test_null_is_a_group_of_its_own() -> None:
    found = {group: rows["n"].tolist() for group, rows in groups(TABLE, ["run"])}
    assert found == {("a",): [2], ("b",): [1, 3], (None,): [4]}
    assert [(group, len(rows)) for group, rows in groups(TABLE, [])] == [((), 4)]
    assert list(groups(TABLE.iloc[:0], ["run"])) == []


def test_sums_leave_out_null_and_keep_null_groups() -> None:
    totals = sums(TABLE, ["run"], ["n", "area"])
    assert totals["n"].tolist() == [2, 4, 4]
    assert totals["area"].tolist() == [0.0, 3.0, 8.0]
    assert sums(TABLE, [], ["n"])["n"].tolist() == [10]


def test_ratios_are_nan_without_a_denominator() -> None:
    found = ratio(TABLE["n"], pd.Series([2.0, 0.0, -1.0, 8.0]))
    assert found.tolist() == [
        0.5,
        pytest.approx(float("nan"), nan_ok=True),
        pytest.approx(float("nan"), nan_ok=True),
        0.5,
    ]


def test_frames_of_groups_are_joined() -> None:
    parts = [with_group(pd.DataFrame({"x": [n]}), ["run", "kind"], (f"r{n}", "k")) for n in (1, 2)]
    frame = joined(parts, ["run", "kind"])
    assert frame.columns.tolist() == ["run", "kind", "x"]
    assert frame["run"].tolist() == ["r1", "r2"]
    assert joined([], ["run"], ["x"]).columns.tolist() == ["run", "x"]


def test_an_absent_column_is_refused_with_the_columns_there_are() -> None:
    assert require_columns(TABLE, ["run"], "particles") is TABLE
    with pytest.raises(UsageError, match="particles has no column 'colour'") as caught:
        require_columns(TABLE, ["colour"], "particles")
    assert "run, n, area" in caught.value.next_step

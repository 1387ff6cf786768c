"""Rows become typed columns with NULL for unknown values, and older columns are cast."""

from __future__ import annotations

import pyarrow as pa
import pytest

from membrain_cloud.errors import ChunkError
from membrain_cloud.statistics.schema.tables import Column
from membrain_cloud.store.tables.arrow_rows import arrow_schema, arrow_table, conform

COLUMNS = (
    Column("dataset", "text", "", "the dataset"),
    Column("run_name", "text", "", "the run"),
    Column("n", "int", "", "a count"),
    Column("area_nm2", "float", "nm²", "an area"),
)
SCHEMA = arrow_schema(COLUMNS)


def test_the_partition_is_no_column_and_fields_have_units() -> None:
    assert SCHEMA.names == ["run_name", "n", "area_nm2"]
    assert SCHEMA.field("area_nm2").metadata == {b"unit": "nm²".encode(), b"description": b"an area"}


def test_unknown_values_are_null_and_fractions_no_counts() -> None:
    rows = arrow_table([{"n": 2.0, "area_nm2": float("nan")}, {"run_name": "a", "n": None, "area_nm2": 1}], SCHEMA)
    assert rows.to_pydict() == {"run_name": [None, "a"], "n": [2, None], "area_nm2": [None, 1.0]}
    with pytest.raises(ValueError, match="whole number"):
        arrow_table([{"n": 1.5}], SCHEMA)


def test_rows_of_other_versions_are_cast_or_refused() -> None:
    older = pa.table({"n": pa.array([1], pa.int32()), "gone": ["x"]})
    assert conform(older, SCHEMA).to_pydict() == {"run_name": [None], "n": [1], "area_nm2": [None]}
    with pytest.raises(ChunkError, match="another version"):
        conform(pa.table({"n": ["many"]}), SCHEMA)

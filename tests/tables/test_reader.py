"""Tables as frames, filtered by `where`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.store.tables.parquet_tables import Tables
from membrain_cloud.tables.reader import TableReader

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stored(tmp_path: Path) -> Tables:
    tables = Tables(str(tmp_path))
    tables.write_part("membranes", "d", "p", [{"run_name": run, "membrane_id": 1} for run in ("a", "b", "b")])
    return tables


def test_a_frame_has_the_rows_of_where_and_its_columns(stored: Tables) -> None:
    reader = TableReader(stored, pd.DataFrame({"run_name": ["b", "b", "c"], "condition": ["x", "x", "y"]}))
    frame = reader.frame("membranes")
    assert frame["run_name"].tolist() == ["b", "b"]
    assert frame["condition"].tolist() == ["x", "x"]
    assert frame.attrs["units"]["one_sided_area_nm2"] == "nm²"
    assert len(TableReader(stored).frame("membranes")) == 3


def test_columns_are_described_with_units(stored: Tables) -> None:
    reader = TableReader(stored)
    assert reader.names() == ["membranes"]
    described = reader.describe("membranes").set_index("column")
    assert described.loc["volume_nm3", "unit"] == "nm³"
    assert described["description"].str.len().min() > 0


def test_where_without_a_key_column_is_refused(stored: Tables) -> None:
    with pytest.raises(UsageError, match="no column of the tables") as caught:
        TableReader(stored, pd.DataFrame({"colour": [1]})).frame("membranes")
    assert "run_name" in caught.value.next_step

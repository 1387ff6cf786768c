"""Parquet parts have types, units and descriptions, NULL for unknown values, and equal bytes for equal rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError
from membrain_cloud.store.tables.parquet_tables import Tables, part_name

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    unit: str
    description: str


SCHEMAS = {
    "membranes": (
        Column("dataset", "text", "", "the dataset"),
        Column("run", "text", "", "the run"),
        Column("membrane", "int", "", "its number"),
        Column("area_nm2", "float", "nm2", "area of the outer surface"),
        Column("closed", "bool", "", "whether it has no border"),
    )
}
ROWS = [
    {"run": "TS_1", "membrane": np.int32(1), "area_nm2": np.float32(2.5), "closed": np.bool_(True)},
    {"run": "TS_1", "membrane": 2, "area_nm2": float("nan"), "closed": None},
    {"run": "TS_1", "membrane": 3, "area_nm2": np.inf},
]


def remove_part(tables: Tables, table: str, dataset: str, part: str) -> None:
    tables.files.remove(part_name(table, dataset, part))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"), schemas=SCHEMAS)


def test_rows_come_back_with_null_for_unknown(tables: Tables) -> None:
    tables.write_part("membranes", "d b", "TS_2", ROWS[:1])
    tables.write_part("membranes", "d b", "TS_1/wbp@10.000", ROWS)
    table = tables.read("membranes")
    assert table.column_names == ["dataset", "run", "membrane", "area_nm2", "closed"]
    assert table.to_pylist()[0] == {"dataset": "d b", "run": "TS_1", "membrane": 1, "area_nm2": 2.5, "closed": True}
    assert table["area_nm2"].to_pylist() == [2.5, None, None, 2.5]
    assert table["closed"].to_pylist() == [True, None, None, True]
    assert tables.names() == ["membranes"]


def test_units_and_descriptions_are_in_the_file(tables: Tables, tmp_path: Path) -> None:
    tables.write_part("membranes", "d", "p", ROWS)
    field = pq.read_schema(tmp_path / "tables/membranes/dataset=d/p.parquet").field("area_nm2")
    assert field.metadata == {b"unit": b"nm2", b"description": b"area of the outer surface"}
    assert ("area_nm2", "double", "nm2", "area of the outer surface") in tables.describe("membranes")


def test_equal_rows_give_equal_bytes(tables: Tables, tmp_path: Path) -> None:
    path = tmp_path / "tables/membranes/dataset=d/p.parquet"
    tables.write_part("membranes", "d", "p", ROWS)
    first = path.read_bytes()
    tables.write_part("membranes", "d", "p", [dict(reversed(list(row.items()))) for row in ROWS])
    assert path.read_bytes() == first
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_other_readers_open_a_table_by_its_folder(tables: Tables, tmp_path: Path) -> None:
    tables.write_part("membranes", "10301", "a", ROWS)
    tables.write_part("membranes", "10302", "a", ROWS[:1])
    found = pyarrow.dataset.dataset(str(tmp_path / "tables/membranes"), partitioning="hive").to_table()
    assert sorted(found["dataset"].to_pylist()) == [10301, 10301, 10301, 10302]


def test_parts_are_replaced_and_removed(tables: Tables) -> None:
    tables.write_part("membranes", "d", "p", ROWS)
    tables.write_part("membranes", "d", "p", ROWS[:1])
    assert tables.read("membranes").num_rows == 1
    tables.write_part("membranes", "d", "p", [])
    assert tables.read("membranes").num_rows == 0
    assert tables.names() == ["membranes"]
    remove_part(tables, "membranes", "d", "p")
    remove_part(tables, "membranes", "d", "p")
    assert tables.names() == []


def test_unknown_columns_and_tables_are_refused(tables: Tables) -> None:
    with pytest.raises(ValueError, match="no column colour"):
        tables.write_part("membranes", "d", "p", [{"colour": 1}])
    with pytest.raises(ValueError, match="whole number"):
        tables.write_part("membranes", "d", "p", [{"membrane": 1.5}])
    with pytest.raises(ProjectError, match="no table 'x'"):
        tables.read("x")
    with pytest.raises(BadNameError):
        tables.write_part("membranes", "..", "p", [])
    assert tables.names() == []


def test_a_torn_part_is_named(tables: Tables, tmp_path: Path) -> None:
    tables.write_part("membranes", "d", "p", ROWS)
    path = tmp_path / "tables/membranes/dataset=d/p.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ChunkError, match=r"dataset=d/p\.parquet"):
        tables.read("membranes")


def test_a_part_of_an_older_version_has_null_in_new_columns(tables: Tables, tmp_path: Path) -> None:
    old = Tables(str(tmp_path / "tables"), schemas={"membranes": SCHEMAS["membranes"][1:3]})
    old.write_part("membranes", "d", "p", [{"run": "TS_1", "membrane": 1}])
    assert tables.read("membranes")["area_nm2"].to_pylist() == [None]


def test_receipts_are_not_a_table(tables: Tables) -> None:
    tables.receipts.write("measure/TS_1", {"digest": "x"})
    assert tables.names() == []
    assert tables.receipts.names() == {"measure/TS_1"}


def test_rows_are_counted_without_reading_them(tables: Tables) -> None:
    tables.write_part("membranes", "d", "a", ROWS)
    tables.write_part("membranes", "e", "a", ROWS[:1])
    tables.write_part("membranes", "e", "b", [])
    assert tables.count_rows("membranes") == 4
    assert tables.parts("membranes") == [("d", "a"), ("e", "a"), ("e", "b")]


def test_a_dataset_scans_only_the_requested_rows(tables: Tables, tmp_path: Path) -> None:
    old = Tables(tables.url, schemas={"membranes": SCHEMAS["membranes"][1:3]})
    old.write_part("membranes", "10 301", "TS_1/wbp", [{"run": "TS_1", "membrane": 1}])
    tables.write_part("membranes", "10302", "TS_1/wbp", ROWS)
    found = tables.dataset("membranes")
    assert found.schema.field("area_nm2").metadata[b"unit"] == b"nm2"
    assert found.count_rows(filter=pyarrow.dataset.field("dataset") == "10302") == 3
    assert found.to_table(columns=["dataset", "area_nm2"]).to_pydict() == {
        "dataset": ["10 301", "10302", "10302", "10302"],
        "area_nm2": [None, 2.5, None, None],
    }

"""`check_tables` names what would make sums or joins wrong, and finds nothing in correct tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from membrain_cloud.statistics.schema.tables import PARENTS, ROW_KEYS, TABLES
from membrain_cloud.store.run_state.receipts import receipt_name
from membrain_cloud.store.tables.check import Problem, check_tables
from membrain_cloud.store.tables.parquet_tables import Tables, part_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Rows = dict[str, list[dict[str, Any]]]


def rows_of(run: str, *, digest: str = "x", dataset: str = "d", tomogram: str = "wbp") -> Rows:
    """Return the rows of a tomogram with two membranes, of three and of no particles."""
    keys = {
        "dataset_id": dataset,
        "run_name": run,
        "tomogram_id": tomogram,
        "voxel_spacing_angstrom": 10.0,
        "segmentation": "m:u/1@10.0",
        "digest": digest,
    }
    one = keys | {"membrane_id": 1}
    found: Rows = {table: [] for table in TABLES}
    found["tomograms"] = [keys | {"n_membranes": 2, "n_particles": 3}]
    found["membranes"] = [one | {"n_particles": 3}, keys | {"membrane_id": 2, "n_particles": 0}]
    found["particles"] = [one | {"particle_id": i, "object_name": "p"} for i in range(3)]
    found["neighbors"] = [one | {"particle_id": i, "rank": 1, "target_object_name": "p"} for i in range(3)]
    found["membrane_histograms"] = [one | {"property": "verticality", "bin": i, "area_nm2": 1.0} for i in range(3)]
    return found


def remove_part(tables: Tables, table: str, dataset: str, part: str) -> None:
    tables.files.remove(part_name(table, dataset, part))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


@pytest.fixture
def write(tables: Tables) -> Callable[..., None]:
    def write(rows: Rows, part: str, dataset: str = "d", *, receipt: bool = True) -> None:
        for table, found in rows.items():
            tables.write_part(table, dataset, part, found)
        if receipt:
            tables.receipts.write(receipt_name(f"measure/{dataset}/{part}", "complete", "0" * 64), {"digest": "x"})

    return write


def errors(tables: Tables) -> list[Problem]:
    return [problem for problem in check_tables(tables) if problem.level == "error"]


def only(tables: Tables) -> Problem:
    (problem,) = errors(tables)
    return problem


def test_every_table_has_a_key_of_its_own_columns() -> None:
    assert set(ROW_KEYS) >= set(TABLES)
    for table, schema in TABLES.items():
        columns = {column.name for column in schema}
        assert set(ROW_KEYS[table]) <= columns, table
        if table in PARENTS:
            assert set(PARENTS[table][1]) <= columns & {column.name for column in TABLES[PARENTS[table][0]]}


def test_whole_tables_are_right(tables: Tables, write: Callable[..., None]) -> None:
    assert check_tables(tables) == []
    write(rows_of("TS_1"), "TS_1/wbp")
    write(rows_of("TS_2"), "TS_2/wbp")
    write(rows_of("TS_1", digest="y", dataset="e"), "TS_1/wbp", "e")
    assert check_tables(tables) == []


def test_duplicate_rows_in_a_part(tables: Tables, write: Callable[..., None]) -> None:
    rows = rows_of("TS_1")
    rows["membrane_histograms"].append(rows["membrane_histograms"][1] | {"area_nm2": 7.0})
    write(rows, "TS_1/wbp")
    assert only(tables).what == "has 1 rows twice (membrane_id 1, leaflet NULL, property verticality, bin 1)"


def test_a_tomogram_in_two_parts(tables: Tables, write: Callable[..., None]) -> None:
    write(rows_of("TS_1"), "TS_1/wbp")
    write(rows_of("TS_1"), "TS_1/copy")
    assert "tomogram wbp of run TS_1 is in 2 parts: TS_1/copy, TS_1/wbp" in only(tables).what


def test_rows_of_other_settings_in_one_dataset(tables: Tables, write: Callable[..., None]) -> None:
    write(rows_of("TS_1"), "TS_1/wbp")
    write(rows_of("TS_2"), "TS_2/wbp")
    write(rows_of("TS_3", digest="y"), "TS_3/wbp")
    assert only(tables).what == "has rows of 2 settings, by digest: x (2 tomograms), y (1 tomograms)"


@pytest.mark.parametrize(
    ("table", "change", "parent"),
    [
        ("neighbors", {"particle_id": 9}, "particles"),
        ("membrane_histograms", {"membrane_id": 9}, "membranes"),
        ("membrane_histograms", {"digest": "older"}, "tomograms"),
    ],
)
def test_rows_without_the_row_they_belong_to(
    tables: Tables, write: Callable[..., None], table: str, change: dict[str, Any], parent: str
) -> None:
    rows = rows_of("TS_1")
    rows[table][2] = rows[table][2] | change
    write(rows, "TS_1/wbp")
    assert any(f"has rows with none in {parent}" in problem.what for problem in errors(tables))


@pytest.mark.parametrize(("table", "count"), [("tomograms", "n_membranes"), ("membranes", "n_particles")])
def test_counts_that_contradict_the_rows(tables: Tables, write: Callable[..., None], table: str, count: str) -> None:
    rows = rows_of("TS_1")
    rows[table][0] = rows[table][0] | {count: 7}
    write(rows, "TS_1/wbp")
    assert only(tables).what.startswith(f"{count} is 7, but there are")


def test_parts_that_are_missing_or_have_no_receipt(tables: Tables, write: Callable[..., None]) -> None:
    write(rows_of("TS_1"), "TS_1/wbp")
    write(rows_of("TS_2"), "TS_2/wbp", receipt=False)
    assert "has no receipt" in only(tables).what
    remove_part(tables, "chains" if "chains" in TABLES else "neighbors", "d", "TS_1/wbp")
    assert sorted(problem.where for problem in errors(tables)) == ["dataset=d, TS_1/wbp", "dataset=d, TS_2/wbp"]


def test_rows_in_the_folder_of_another_dataset(tables: Tables, write: Callable[..., None]) -> None:
    write(rows_of("TS_1", dataset="other"), "TS_1/wbp")
    assert {problem.what for problem in errors(tables)} == {"has rows of dataset other"}


def change_file(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_columns_of_other_units_types_and_versions(tables: Tables, write: Callable[..., None], tmp_path: Path) -> None:
    write(rows_of("TS_1"), "TS_1/wbp")
    path = tmp_path / "tables/membranes/dataset=d/TS_1%2Fwbp.parquet"
    place = pq.read_schema(path).get_field_index("shell_area_nm2")

    def in_angstrom(stored: pa.Table) -> pa.Table:
        field = stored.schema.field(place).with_metadata({"unit": "Å²", "description": "area"})
        return stored.set_column(place, field, stored.column(place))

    change_file(path, in_angstrom)
    assert only(tables).what == "column shell_area_nm2 is in Å², not nm²"
    change_file(path, lambda stored: stored.set_column(place, "shell_area_nm2", pa.array(["1", "2"])))
    assert only(tables).what == "column shell_area_nm2 is string, not double"
    change_file(path, lambda stored: stored.drop_columns(["shell_area_nm2"]).append_column("colour", pa.array([1, 2])))
    assert errors(tables) == []
    notes = [problem.what for problem in check_tables(tables)]
    assert notes == [
        "no column shell_area_nm2: of an older version, read as NULL",
        "column colour is of another version, and not read",
    ]
    assert tables.read("membranes")["shell_area_nm2"].to_pylist() == [None, None]


def test_torn_parts_and_torn_or_old_compact_files(tables: Tables, write: Callable[..., None], tmp_path: Path) -> None:
    write(rows_of("TS_1"), "TS_1/wbp")
    tables.compact()
    copy = tmp_path / "tables/compact/membranes/dataset=d/all.parquet"
    tables.write_part("membranes", "d", "TS_1/wbp", rows_of("TS_1")["membranes"][::-1])
    notes = check_tables(tables)
    assert "compact/membranes/dataset=d/all.parquet" in {note.where for note in notes if "changed since" in note.what}
    copy.write_bytes(copy.read_bytes()[:-20])
    assert only(tables).where == "compact/membranes/dataset=d/all.parquet"
    path = tmp_path / "tables/particles/dataset=d/TS_1%2Fwbp.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert {problem.where for problem in errors(tables)} == {
        "compact/membranes/dataset=d/all.parquet",
        "particles/dataset=d/TS_1%2Fwbp.parquet",
    }


def test_a_table_of_another_version_is_noted(tables: Tables) -> None:
    Tables(tables.url, schemas={"old_table": TABLES["tomograms"]}).write_part("old_table", "d", "a", [])
    (note,) = check_tables(tables)
    assert (note.level, note.where) == ("note", "old_table")
    assert note.line() == "note: old_table: no table of this version -> leave it, or remove it"

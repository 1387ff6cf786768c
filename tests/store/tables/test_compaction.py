"""Compact copies hold the same rows in fewer files, also while other processes read and write."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

import pyarrow.dataset
import pytest

from membrain_cloud.errors import ChunkError, ProjectError
from membrain_cloud.statistics.schema.tables import Column
from membrain_cloud.store.tables.compaction import read_compact
from membrain_cloud.store.tables.parquet_tables import Tables, part_name

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

SCHEMAS = {
    "membranes": (Column("run_name", "text", "", "the run"), Column("area_nm2", "float", "nm²", "its area")),
    "particles": (Column("run_name", "text", "", "the run"), Column("score", "float", "", "of the pick")),
}
N_PARTS, N_ROWS = 6, 20


def rows(run: str, value: float, count: int = N_ROWS) -> list[dict[str, object]]:
    return [{"run_name": run, "area_nm2": value}] * count


def settle(folder: Path) -> None:
    """Date the parts a minute back."""
    past = time.time() - 60.0
    for path in folder.rglob("*.parquet"):
        if "compact" not in path.parts and path.stat().st_mtime > past:
            os.utime(path, (past, past))


def remove_part(tables: Tables, table: str, dataset: str, part: str) -> None:
    tables.files.remove(part_name(table, dataset, part))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    found = Tables(str(tmp_path / "tables"), schemas=SCHEMAS)
    for number_of in range(3):
        found.write_part("membranes", "d", f"TS_{number_of}/wbp", rows(f"TS_{number_of}", 1.0))
    found.write_part("membranes", "e", "TS_9/wbp", rows("TS_9", 1.0))
    found.write_part("particles", "d", "TS_0/wbp", [])
    settle(tmp_path)
    return found


def test_compact_files_hold_the_same_rows(tables: Tables, tmp_path: Path) -> None:
    before = tables.read("membranes")
    parts = {path: path.read_bytes() for path in (tmp_path / "tables").rglob("*.parquet")}
    assert tables.compact() == {
        "membranes": {"parts": 4, "rows": 80, "files": 2},
        "particles": {"parts": 1, "rows": 0, "files": 1},
    }
    assert {path: path.read_bytes() for path in parts} == parts
    assert tables.names() == ["membranes", "particles"]
    assert tables.read("membranes").equals(before)
    plain = pyarrow.dataset.dataset(f"{tables.url}/compact/membranes", partitioning="hive")
    assert len(plain.files) == 2
    assert plain.to_table().num_rows == 80
    assert plain.schema.field("area_nm2").metadata[b"unit"] == "nm²".encode()
    assert len(tables.dataset("membranes").files) == 2


def test_unchanged_parts_are_read_from_the_compact_file(tables: Tables) -> None:
    tables.compact()
    name = "compact/membranes/dataset=d/all.parquet"
    copy = read_compact(tables.files, name)
    assert copy is not None
    infos = tables.parts_of("membranes", "dataset=d")
    assert [copy.of(part, info).num_rows for part, info in infos.items()] == [20, 20, 20]
    tables.write_part("membranes", "d", "TS_1/wbp", rows("TS_1", 2.0, 5))
    infos = tables.parts_of("membranes", "dataset=d")
    assert copy.of("TS_1/wbp", infos["TS_1/wbp"]) is None
    assert copy.of("TS_2/wbp", infos["TS_2/wbp"]) is not None
    assert copy.of("unknown", infos["TS_2/wbp"]) is None


def test_changes_after_the_compaction_are_read(tables: Tables) -> None:
    tables.compact()
    tables.write_part("membranes", "d", "TS_1/wbp", rows("TS_1", 2.0, 5))
    tables.write_part("membranes", "d", "TS_7/wbp", rows("TS_7", 3.0, 2))
    remove_part(tables, "membranes", "d", "TS_0/wbp")
    found = tables.read("membranes").to_pandas()
    found = found[found["dataset"] == "d"]
    assert found.groupby("run_name")["area_nm2"].agg(["size", "max"]).values.tolist() == [[5, 2], [20, 1], [2, 3]]
    scanned = tables.dataset("membranes").to_table().num_rows
    assert scanned == tables.read("membranes").num_rows == 47


def test_only_changed_datasets_are_compacted_again(tables: Tables, tmp_path: Path) -> None:
    tables.compact()
    assert {table: counts["files"] for table, counts in tables.compact().items()} == {"membranes": 0, "particles": 0}
    tables.write_part("membranes", "d", "TS_1/wbp", rows("TS_1", 2.0, 5))
    settle(tmp_path)
    assert tables.compact()["membranes"] == {"parts": 4, "rows": 45, "files": 1}
    assert tables.read("membranes").num_rows == 65
    remove_part(tables, "membranes", "e", "TS_9/wbp")
    tables.compact()
    assert not (tmp_path / "tables/compact/membranes/dataset=e/all.parquet").exists()


def test_a_part_as_young_as_the_compact_file_is_read_itself(tmp_path: Path) -> None:
    # Two files written within one step of the disk's clock have the same time stamp.
    tables = Tables(str(tmp_path), schemas=SCHEMAS)
    tables.write_part("membranes", "d", "a", rows("old", 1.0))
    tables.compact()
    path = tmp_path / "membranes/dataset=d/a.parquet"
    stamp = path.stat()
    tables.write_part("membranes", "d", "a", rows("new", 1.0))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert set(tables.read("membranes")["run_name"].to_pylist()) == {"new"}


def test_a_torn_part_leaves_the_old_compact_file(tables: Tables, tmp_path: Path) -> None:
    tables.compact()
    path = tmp_path / "tables/membranes/dataset=d/TS_1%2Fwbp.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    copy = tmp_path / "tables/compact/membranes/dataset=d/all.parquet"
    before = copy.read_bytes()
    with pytest.raises(ChunkError, match=r"TS_1%2Fwbp\.parquet"):
        tables.compact()
    assert copy.read_bytes() == before


def test_a_torn_compact_file_is_named_and_rewritten(tables: Tables, tmp_path: Path) -> None:
    tables.compact()
    path = tmp_path / "tables/compact/membranes/dataset=d/all.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ChunkError, match="tables compact"):
        tables.read("membranes")
    assert tables.compact()["membranes"]["files"] == 1
    assert tables.read("membranes").num_rows == 80


def test_a_compact_copy_in_another_folder(tables: Tables, tmp_path: Path) -> None:
    copy = Tables(str(tmp_path / "copy"), schemas=SCHEMAS)
    tables.compact(copy)
    assert copy.parts("membranes") == [("d", "all"), ("e", "all")]
    assert copy.read("membranes").equals(tables.read("membranes"))
    with pytest.raises(ProjectError, match="there are tables"):
        tables.compact(copy)


def _write(url: str, stop: Event) -> None:
    tables, generation = Tables(url, schemas=SCHEMAS), 1.0
    while not stop.is_set():
        generation += 1.0
        for part in range(N_PARTS):
            # Each generation has another number of rows, so a surplus or missing row is noticed.
            tables.write_part("membranes", "d", f"TS_{part}", rows(f"TS_{part}", generation, N_ROWS + int(generation)))


def _compact(url: str, stop: Event) -> None:
    while not stop.is_set():
        Tables(url, schemas=SCHEMAS).compact()


def test_concurrent_readers_see_each_part_whole_and_newest(tmp_path: Path) -> None:
    url, context = str(tmp_path / "tables"), multiprocessing.get_context("spawn")
    tables = Tables(url, schemas=SCHEMAS)
    for part in range(N_PARTS):
        tables.write_part("membranes", "d", f"TS_{part}", rows(f"TS_{part}", 1.0, N_ROWS + 1))
    stop = context.Event()
    others = [context.Process(target=work, args=(url, stop)) for work in (_write, _compact, _compact)]
    for process in others:
        process.start()
    last = dict.fromkeys((f"TS_{part}" for part in range(N_PARTS)), 1.0)
    copy, copies = tmp_path / "tables/compact/membranes/dataset=d/all.parquet", set()
    # until some generations and compact copies have been written
    for _ in range(2000):
        if copy.exists():
            copies.add(copy.stat().st_mtime_ns)
        if min(last.values()) > 4.0 and len(copies) > 3:
            break
        found = tables.read("membranes").to_pandas()
        for run, group in found.groupby("run_name"):
            assert group["area_nm2"].nunique() == 1, "a part is seen in two versions"
            generation = group["area_nm2"].iloc[0]
            assert len(group) == N_ROWS + generation
            assert generation >= last[str(run)], "an older part came back"
            last[str(run)] = generation
        assert set(found["run_name"]) == set(last)
    stop.set()
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert min(last.values()) > 4.0
    assert len(copies) > 3
    tables.compact()
    assert tables.read("membranes").num_rows == sum(N_ROWS + int(found) for found in _newest(tables).values())


def _newest(tables: Tables) -> dict[str, float]:
    found = {}
    for _, part in tables.parts("membranes"):
        stored = tables.read_part("membranes", "d", part)
        assert stored is not None
        found[part] = stored["area_nm2"][0].as_py()
    return found


def test_a_killed_compaction_changes_no_rows(tables: Tables, tmp_path: Path) -> None:
    before = tables.read("membranes")
    context = multiprocessing.get_context("spawn")
    for seconds in (0.6, 1.0, 1.4):
        process = context.Process(target=_compact, args=(tables.url, context.Event()))
        process.start()
        time.sleep(seconds)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert tables.read("membranes").equals(before)
    tables.compact()
    assert tables.read("membranes").equals(before)

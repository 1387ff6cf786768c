"""Rows as one Parquet or CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.store.tables.row_export import check_row_file, write_bytes, write_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"run": "TS_1", "dice": 0.5}, {"run": "TS_2", "f1": 1.0}]


def test_columns_come_in_the_order_of_their_first_row(tmp_path: Path) -> None:
    write_rows(str(tmp_path / "new" / "rows.csv"), ROWS)
    assert (tmp_path / "new" / "rows.csv").read_text() == "run,dice,f1\nTS_1,0.5,\nTS_2,,1.0\n"
    write_rows(str(tmp_path / "rows.parquet"), ROWS)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.to_pylist() == [{"run": "TS_1", "dice": 0.5, "f1": None}, {"run": "TS_2", "dice": None, "f1": 1.0}]


def test_a_file_is_replaced_only_if_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bytes("scores.csv", b"x")
    assert (tmp_path / "scores.csv").read_bytes() == b"x"
    with pytest.raises(UsageError, match="exists already"):
        check_row_file("scores.csv", overwrite=False)
    check_row_file("scores.csv", overwrite=True)
    with pytest.raises(UsageError, match="Parquet or CSV"):
        check_row_file("scores.xlsx", overwrite=True)

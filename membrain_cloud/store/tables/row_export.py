"""Rows as one file for people's own analysis: Parquet, or CSV."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import UsageError
from membrain_cloud.store.objects.object_store import Files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ENDINGS = (".parquet", ".csv")


def check_row_file(path: str, *, overwrite: bool) -> None:
    """UsageError for another kind of file, and for one that exists, unless `overwrite`."""
    if not path.endswith(_ENDINGS):
        raise UsageError(f"{path}: rows are written as Parquet or CSV", "give a name that ends in .parquet or .csv")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"{path}: exists already", "give another name, or --overwrite")


def write_rows(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with all their columns, in the order they come up, atomically; what a row lacks is NULL (or empty).

    Raises StorageError where it cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.endswith(".csv"):
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = out.getvalue().encode()
    else:
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), buffer)
        content = buffer.getvalue()
    folder, name = os.path.split(path if "://" in path else os.path.abspath(path))
    Files(folder).write(name, content)


def write_bytes(path: str, content: bytes) -> None:
    """Write a small file, a figure, atomically; StorageError where it cannot be written."""
    folder, name = os.path.split(path if "://" in path else os.path.abspath(path))
    Files(folder).write(name, content)

"""Rows as one Parquet or CSV file, for analysis in other programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import UsageError
from membrain_cloud.store.objects.local_files import absolute_path
from membrain_cloud.store.objects.object_store import Files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ENDINGS = (".parquet", ".csv")


def check_row_file(path: str, *, overwrite: bool) -> None:
    """Raise UsageError for a file that rows cannot be written to.

    Parameters
    ----------
    path : str
        Path or URL of the file; its ending must be .parquet or .csv.
    overwrite : bool
        Whether the file may exist.
    """
    if not path.endswith(_ENDINGS):
        raise UsageError(f"{path}: rows are written as Parquet or CSV", "give a name that ends in .parquet or .csv")
    if Path(path).exists() and not overwrite:
        raise UsageError(f"{path}: exists already", "give another name, or allow it to be overwritten")


def write_rows(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as one file, atomically.

    Parameters
    ----------
    path : str
        Path or URL of a .csv file; any other ending gives Parquet.
    rows : sequence of Mapping
        Values by column. Columns come in the order of their first row; absent values are NULL, or empty in CSV.

    Raises
    ------
    StorageError
        If the file cannot be written.
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
    write_bytes(path, content)


def write_bytes(path: str, content: bytes) -> None:
    """Write a small file, such as a figure, atomically.

    Parameters
    ----------
    path : str
        Path or URL of the file.
    content : bytes
        Its content.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    folder, _, name = (path if "://" in path else absolute_path(path)).rpartition("/")
    Files(folder or "/").write(name, content)

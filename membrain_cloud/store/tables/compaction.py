"""A compact copy of the tables: one Parquet file per table and dataset, in the folder `compact` beside the parts.

Queries over thousands of tomograms are faster on few large files. The parts stay: they are what `measure` writes and
what receipts are about, so a run may go on meanwhile, and an interrupted compaction loses nothing. A compact file is
replaced whole, and lists in its own metadata the parts it was made of: `Tables.read` takes rows from it only if the
part is still the same, and from the part itself if a run has written a newer one since.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import ChunkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.objects.object_store import Files

FOLDER = "compact"
_MANIFEST = b"membrain_cloud.parts"
# Rows of one row group: readers skip groups, and a group is held in memory while it is written.
_GROUP_ROWS = 2**18
# A local file's time stamp has steps of some milliseconds: a younger part may be replaced within one.
_UNSETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class CompactFile:
    """The content of a compact file.

    Attributes
    ----------
    rows : pyarrow.Table
        Rows of all parts.
    parts : Mapping
        For each part its tag when it was read (None: not reliable), its first row, and its number of rows.
    """

    rows: pa.Table
    parts: Mapping[str, tuple[str | None, int, int]]

    def of(self, part: str, info: ObjectInfo) -> pa.Table | None:
        """Return the rows of a part.

        Parameters
        ----------
        part : str
            Name of the part.
        info : ObjectInfo
            Size and tag of the part as it is now.

        Returns
        -------
        pyarrow.Table or None
            None if the part is not in the file, or has been replaced since.
        """
        tag, first, count = self.parts.get(part, (None, 0, 0))
        return self.rows.slice(first, count) if tag is not None and tag == _tag(info) else None


def compact_name(table: str, folder: str) -> str:
    """Return the path of a compact file below the tables' URL.

    Parameters
    ----------
    table : str
        Name of the table.
    folder : str
        Folder of the partition, `dataset=...`.
    """
    return f"{FOLDER}/{table}/{folder}/all.parquet"


def read_compact(files: Files, name: str) -> CompactFile | None:
    """Return a compact file.

    Parameters
    ----------
    files : Files
        The tables' folder.
    name : str
        Path of the compact file.

    Returns
    -------
    CompactFile or None
        None if it is absent, or was not written by `write_compact`.

    Raises
    ------
    ChunkError
        If it is torn.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(files.read(name)))
        stored = file.read()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise ChunkError(
            f"{files.url}/{name} cannot be read as Parquet ({error})", "run `tables compact` again, or remove it"
        ) from error
    manifest = (file.metadata.metadata or {}).get(_MANIFEST)
    if manifest is None:
        return None
    parts = {part: (tag, first, count) for part, tag, first, count in json.loads(manifest)}
    return CompactFile(stored, parts)


def is_current(files: Files, name: str, parts: Mapping[str, ObjectInfo]) -> bool:
    """Return whether a compact file holds exactly the present parts; only the end of the file is read.

    Parameters
    ----------
    files : Files
        The tables' folder.
    name : str
        Path of the compact file.
    parts : mapping of str to ObjectInfo
        Size and tag of each part as it is now.
    """
    manifest = _manifest(files, name)
    return manifest is not None and {part: tag for part, tag, _, _ in manifest} == {
        part: _tag(info) for part, info in parts.items()
    }


def _manifest(files: Files, name: str) -> list[tuple[str, str | None, int, int]] | None:
    """Return the list of parts in a compact file; None if the file is absent or torn, so that it is written anew."""
    footer = read_footer(files, name)
    manifest = None if footer is None else (footer.metadata or {}).get(_MANIFEST)
    return None if manifest is None else [tuple(entry) for entry in json.loads(manifest)]


def read_footer(files: Files, name: str) -> Any:
    """Return the footer of a Parquet file, a `pyarrow.parquet.FileMetaData`.

    Parameters
    ----------
    files : Files
        The store of the file.
    name : str
        Name of the file.

    Returns
    -------
    FileMetaData or None
        None if the file is absent or torn.
    """
    try:
        with files.open(name) as handle:
            try:
                return pq.read_metadata(handle)
            except pa.ArrowException:
                return None
    except FileNotFoundError:
        return None


def write_compact(
    read_part: Callable[[str], pa.Table | None],
    schema: pa.Schema,
    parts: Mapping[str, ObjectInfo],
    target: Files,
    name: str,
) -> int:
    """Write a compact file of parts, whole or not at all.

    Parameters
    ----------
    read_part : callable
        Returns the rows of a part by its name, or None where it has been removed; such a part is left out.
    schema : pyarrow.Schema
        Columns of the table.
    parts : mapping of str to ObjectInfo
        Name of each part to its size and tag.
    target : Files
        The folder that the compact file is written to.
    name : str
        Name of the compact file below `target`.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    ChunkError
        If a part is torn; nothing is replaced then.
    """
    started, manifest, first = time.time(), [], 0
    with tempfile.TemporaryDirectory(prefix="membrain-cloud-compact-") as folder:
        path = str(Path(folder) / "all.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            group: list[pa.Table] = []
            for part, info in sorted(parts.items()):
                rows = read_part(part)
                if rows is None:
                    continue
                settled = not target.local or _modified(info) < started - _UNSETTLED_SECONDS
                manifest.append((part, _tag(info) if settled else None, first, rows.num_rows))
                first += rows.num_rows
                group.append(rows)
                if sum(rows.num_rows for rows in group) >= _GROUP_ROWS:
                    writer.write_table(pa.concat_tables(group))
                    group = []
            writer.write_table(pa.concat_tables([*group, schema.empty_table()]))
            writer.add_key_value_metadata({_MANIFEST: json.dumps(manifest).encode()})
        target.write_from(path, name)
    return first


def _tag(info: ObjectInfo) -> str:
    return f"{info.size}:{info.tag}"


def _modified(info: ObjectInfo) -> float:
    """Return the modification time in seconds; a local file's tag is its time stamp in nanoseconds."""
    return int(info.tag) / 1e9 if info.tag.isdigit() else 0.0


def compact_files(files: Files) -> Iterator[tuple[str, str]]:
    """Iterate over table and partition's folder of each compact file.

    Parameters
    ----------
    files : Files
        The folder of the tables.
    """
    for name in files.listing(FOLDER):
        parts = name.split("/")
        if len(parts) == 3 and parts[2] == "all.parquet":
            yield parts[0], parts[1]

"""Parquet tables, written as one part a task and dataset: `{table}/dataset={dataset}/{part}.parquet`.

Any reader of hive-partitioned Parquet (DuckDB, pandas, Polars, Spark) opens a table by its folder. Each field carries
its unit and its description in the schema's metadata. Unknown values are NULL, never NaN. `compact/{table}/...` holds
copies in few files (compaction.py); `_receipts` says which parts are finished.
"""

from __future__ import annotations

import copy
import functools
import io
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.run_state.receipts import Receipts
from membrain_cloud.store.tables.compaction import (
    FOLDER,
    CompactFile,
    compact_files,
    compact_name,
    is_current,
    read_compact,
    read_footer,
    write_compact,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from membrain_cloud.statistics.schema.tables import Column
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_info import ObjectInfo

    Schemas = Mapping[str, Sequence[Column]]

_KINDS = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}
# Given by the folder's name, so never stored twice.
_PARTITION = "dataset"
# Parts that are fetched at a time: most of the time goes into waiting for the store.
_FETCHES = 8


class Tables:
    """The tables below one URL.

    Parameters
    ----------
    url : local path or fsspec URL.
    schemas : columns of each table, with `name`, `kind` ("int", "float", "text", "bool"), `unit` and `description`;
        by default those of `membranes.columns.TABLES`.
    """

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None = None, schemas: Schemas | None = None
    ) -> None:
        if schemas is None:
            from membrain_cloud.statistics.schema.tables import TABLES

            schemas = TABLES
        self.files = Files(url, storage_options)
        self._schemas = schemas
        self.url = self.files.url

    def check_writable(self) -> None:
        """StorageError, with the cure, where rows cannot be written: asked once, before a run begins."""
        self.files.check_writable()

    def metered(self, meter: Meter) -> Tables:
        """The same tables; all that is read and written through the result is counted by `meter`."""
        other = copy.copy(self)
        other.files = self.files.metered(meter)
        return other

    @property
    def receipts(self) -> Receipts:
        return Receipts(f"{self.files.url}/_receipts", self.files.options)

    def write_part(self, table: str, dataset: str, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write (or replace) one part atomically; equal rows give equal bytes.

        A column a row does not have, None, NaN and infinities become NULL; a column the table does not have is a
        ValueError. No rows give a part without rows, so that "measured, none found" differs from "not measured".
        """
        schema = self.schema(table)
        known = {*schema.names, _PARTITION}
        for row in rows:
            if extra := sorted(set(row) - known):
                raise ValueError(f"table {table} has no column {', '.join(extra)}")
            if row.get(_PARTITION, dataset) != dataset:
                raise ValueError(f"a row of dataset {row[_PARTITION]!r} is written to dataset {dataset!r}")
        columns = [_column(rows, field) for field in schema]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
        self.files.write(part_name(table, dataset, part), buffer.getvalue())

    def remove_part(self, table: str, dataset: str, part: str) -> None:
        """Nothing happens when there is no such part."""
        self.files.remove(part_name(table, dataset, part))

    def read(self, table: str) -> pa.Table:
        """All rows, in the order of dataset and part, with the dataset as first column. ChunkError for a torn part.

        Columns that an older version wrote differently are cast, and NULL where it had none. Each part is read as it
        was at one moment; rows of a compact copy are taken where they are still the part's.
        """
        schema = self.schema(table).insert(0, pa.field(_PARTITION, pa.string(), metadata=_notes("", "the dataset")))
        found = [schema.empty_table()]
        for dataset, rows in self._all_rows(table):
            label = pa.array([dataset] * rows.num_rows, pa.string())
            found.append(rows.add_column(0, schema.field(0), label).cast(schema))
        return pa.concat_tables(found).combine_chunks()

    def _all_rows(self, table: str) -> Iterator[tuple[str, pa.Table]]:
        """(dataset, rows) of each part, in this version's columns."""
        compact, schema = set(compact_files(self.files)), self.schema(table)

        def fetch(dataset: str, copy: CompactFile | None, part: str, info: ObjectInfo) -> pa.Table | None:
            rows = None if copy is None else copy.of(part, info)
            return self.read_part(table, dataset, part) if rows is None else _conform(rows, schema)

        with ThreadPoolExecutor(_FETCHES) as pool:
            for dataset, parts in self._parts(table).items():
                folder = _folder(dataset)
                copy = read_compact(self.files, compact_name(table, folder)) if (table, folder) in compact else None
                for rows in pool.map(functools.partial(fetch, dataset, copy), parts.keys(), parts.values()):
                    if rows is not None:
                        yield dataset, rows

    def read_part(self, table: str, dataset: str, part: str) -> pa.Table | None:
        """The rows of one part in this version's columns; None where there is no such part (any more)."""
        stored = self.read_stored(table, dataset, part)
        return None if stored is None else _conform(stored, self.schema(table))

    def read_stored(self, table: str, dataset: str, part: str) -> pa.Table | None:
        """One part as it is in its file. ChunkError for a torn one; None where there is none."""
        name = part_name(table, dataset, part)
        try:
            content = self.files.read(name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError) as error:
            raise ChunkError(
                f"{self.files.url}/{name} cannot be read as Parquet ({error})", "remove it and run `measure` again"
            ) from error

    def dataset(self, table: str) -> Any:
        """A table as a `pyarrow.dataset.Dataset`, read when it is scanned: for queries of part of a large table.

        DuckDB queries one by its Python name. Of each dataset the compact file is scanned where it is current, the
        parts otherwise; what a run replaces during the scan may be found gone.
        """
        import pyarrow.dataset

        partition = pa.schema([(_PARTITION, pa.string())])
        paths = []
        for dataset, parts in self._parts(table).items():
            name = compact_name(table, _folder(dataset))
            names = (
                [name] if is_current(self.files, name, parts) else [part_name(table, dataset, part) for part in parts]
            )
            paths += [self.files.path(name) for name in names]
        return pyarrow.dataset.dataset(
            paths,
            schema=pa.unify_schemas([partition, self.schema(table)]),
            format="parquet",
            filesystem=self.files.filesystem,
            partitioning=pyarrow.dataset.HivePartitioning(partition),
        )

    def parts(self, table: str) -> list[tuple[str, str]]:
        """(dataset, part) of each part, sorted."""
        return [(dataset, part) for dataset, parts in self._parts(table).items() for part in parts]

    def count_rows(self, table: str) -> int:
        """Of all parts, from what the files say at their ends."""

        def count(name: str) -> int:
            footer = read_footer(self.files, name)
            if footer is None and self.files.exists(name):
                raise ChunkError(f"{self.files.url}/{name} is no whole Parquet file", "see `tables check`")
            return 0 if footer is None else int(footer.num_rows)

        with ThreadPoolExecutor(_FETCHES) as pool:
            return sum(pool.map(count, [part_name(table, dataset, part) for dataset, part in self.parts(table)]))

    def parts_of(self, table: str, folder: str) -> dict[str, ObjectInfo]:
        """Of one partition, by its folder's name: part -> size and tag."""
        return self._parts(table).get(unquote(folder.removeprefix(f"{_PARTITION}=")), {})

    def _parts(self, table: str) -> dict[str, dict[str, ObjectInfo]]:
        """Dataset -> part -> size and tag, sorted."""
        found: dict[str, dict[str, ObjectInfo]] = {}
        for name, info in self.files.listing(table).items():
            folder, _, file = name.rpartition("/")
            if file.endswith(".parquet") and not file.startswith(".") and folder.startswith(f"{_PARTITION}="):
                dataset, part = unquote(folder.removeprefix(f"{_PARTITION}=")), unquote(file.removesuffix(".parquet"))
                found.setdefault(dataset, {})[part] = info
        return {dataset: dict(sorted(parts.items())) for dataset, parts in sorted(found.items())}

    def compact(self, target: Tables | None = None) -> dict[str, dict[str, int]]:
        """Copy each table and dataset into one file: below `compact/` here, or as the only part below another URL.

        Parts are left as they are, so others may read them, and a run may write, meanwhile; see compaction.py. A
        compact file that is current is left alone, one whose parts are gone is removed. Returns for each table the
        number of parts, of rows written, and of files written.

        ProjectError where `target` already has tables, ChunkError for a torn part.
        """
        if target is not None and target.names():
            raise ProjectError(f"there are tables below {target.url} already", "give a new folder for the compact copy")
        counts = {}
        stale = set() if target is not None else set(compact_files(self.files))
        for table in self.names():
            counts[table] = {"parts": 0, "rows": 0, "files": 0}
            for dataset, parts in self._parts(table).items():
                counts[table]["parts"] += len(parts)
                stale.discard((table, _folder(dataset)))
                files = self.files if target is None else target.files
                name = compact_name(table, _folder(dataset)) if target is None else part_name(table, dataset, "all")
                if target is None and is_current(files, name, parts):
                    continue
                read = functools.partial(self.read_part, table, dataset)
                counts[table]["rows"] += write_compact(read, self.schema(table), parts, files, name)
                counts[table]["files"] += 1
        for table, folder in stale:
            self.files.remove(compact_name(table, folder))
        return counts

    def compact_url(self, table: str) -> str:
        """The folder of a table's compact files, for any reader of hive-partitioned Parquet."""
        return f"{self.url}/{FOLDER}/{table}"

    def names(self) -> list[str]:
        """The tables that have at least one part, those of other versions included."""
        found = {name.split("/", 1)[0] for name in self.files.listing() if name.endswith(".parquet")}
        return sorted(name for name in found if not name.startswith(("_", ".")) and name != FOLDER)

    def known(self) -> Iterator[str]:
        """Of `names`, those of this version."""
        return (name for name in self.names() if name in self._schemas)

    def describe(self, table: str) -> list[tuple[str, str, str, str]]:
        """(name, type, unit, description) of each column."""
        return [
            (field.name, str(field.type), field.metadata[b"unit"].decode(), field.metadata[b"description"].decode())
            for field in self.schema(table)
        ]

    def schema(self, table: str) -> pa.Schema:
        """Of the parts' files. ProjectError for a table there is not."""
        if table not in self._schemas:
            raise ProjectError(f"there is no table {table!r}", f"the tables are {', '.join(sorted(self._schemas))}")
        return pa.schema(
            pa.field(column.name, _KINDS[column.kind], metadata=_notes(column.unit, column.description))
            for column in self._schemas[table]
            if column.name != _PARTITION
        )


def _conform(stored: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of an older version in this version's columns: cast, and NULL where it had none."""
    if stored.schema.equals(schema):
        return stored.cast(schema)
    try:
        columns = [
            stored[field.name].cast(field.type)
            if field.name in stored.column_names
            else pa.nulls(stored.num_rows, field.type)
            for field in schema
        ]
    except pa.ArrowException as error:
        raise ChunkError(f"a part of another version cannot be read ({error})", "run `measure` again") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _notes(unit: str, description: str) -> dict[str, str]:
    return {"unit": unit or "", "description": description}


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    return pa.array([_value(row.get(field.name), field.type) for row in rows], field.type)


def _value(value: Any, kind: pa.DataType) -> Any:
    """A Python value of the column's kind; None for unknown, NaN and infinite."""
    if value is None or (not isinstance(value, str) and not math.isfinite(value)):
        return None
    if pa.types.is_integer(kind):
        if int(value) != value:
            raise ValueError(f"{value!r} is not a whole number")
        return int(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_boolean(kind):
        return bool(value)
    return str(value)


def _folder(dataset: str) -> str:
    return f"{_PARTITION}={quote(dataset, safe=' @+,')}"


def part_name(table: str, dataset: str, part: str) -> str:
    """Where a part lies below the tables' URL. BadNameError for names that would lead elsewhere."""
    # Percent-encoding keeps every name one part of a path, and readers of hive partitions decode it.
    name = quote(part, safe=" @+,=")
    if any(not word or word.startswith(".") for word in (dataset, name)):
        raise BadNameError(f"part {part!r} of dataset {dataset!r} must not become a path", "use a plain name")
    return f"{table}/{_folder(dataset)}/{name}.parquet"

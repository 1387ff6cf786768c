"""Parquet tables, written as one part a task and dataset: `{table}/dataset={dataset}/{part}.parquet`.

Any reader of hive-partitioned Parquet (DuckDB, pandas, Polars, Spark) opens a table by its folder. Each field carries
its unit and its description in the schema's metadata. Unknown values are NULL, never NaN.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError
from membrain_cloud.store.files import Files, Meter
from membrain_cloud.store.receipts import Receipts

if TYPE_CHECKING:
    from membrain_cloud.membranes.statistics import Column

    Schemas = Mapping[str, Sequence[Column]]

_KINDS = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}
# Given by the folder's name, so never stored twice.
_PARTITION = "dataset"


class Tables:
    """The tables below one URL.

    Parameters
    ----------
    url : local path or fsspec URL.
    schemas : columns of each table, with `name`, `kind` ("int", "float", "text", "bool"), `unit` and `description`;
        by default those of `membranes.statistics.TABLES`.
    """

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None = None, schemas: Schemas | None = None
    ) -> None:
        if schemas is None:
            from membrain_cloud.membranes.statistics import TABLES

            schemas = TABLES
        self._files = Files(url, storage_options)
        self._schemas = schemas
        self.url = self._files.url

    def metered(self, meter: Meter) -> Tables:
        """The same tables; all that is read and written through the result is counted by `meter`."""
        other = copy.copy(self)
        other._files = self._files.metered(meter)
        return other

    @property
    def receipts(self) -> Receipts:
        return Receipts(f"{self._files.url}/_receipts", self._files.options)

    def write_part(self, table: str, dataset: str, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write (or replace) one part atomically; equal rows give equal bytes.

        A column a row does not have, None, NaN and infinities become NULL; a column the table does not have is a
        ValueError. No rows give a part without rows, so that "measured, none found" differs from "not measured".
        """
        schema = self._schema(table)
        known = {*schema.names, _PARTITION}
        for row in rows:
            if extra := sorted(set(row) - known):
                raise ValueError(f"table {table} has no column {', '.join(extra)}")
            if row.get(_PARTITION, dataset) != dataset:
                raise ValueError(f"a row of dataset {row[_PARTITION]!r} is written to dataset {dataset!r}")
        columns = [_column(rows, field) for field in schema]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
        self._files.write(_part_name(table, dataset, part), buffer.getvalue())

    def remove_part(self, table: str, dataset: str, part: str) -> None:
        """Nothing happens when there is no such part."""
        self._files.remove(_part_name(table, dataset, part))

    def read(self, table: str) -> pa.Table:
        """All parts, in the order of dataset and part, with the dataset as first column. ChunkError for a torn part.

        Columns that an older version wrote differently are cast, and NULL where it had none.
        """
        schema = self._schema(table).insert(0, pa.field(_PARTITION, pa.string(), metadata=_notes("", "the dataset")))
        parts = [schema.empty_table()]
        for name in self._files.listing(table):
            folder, _, file = name.rpartition("/")
            if file.endswith(".parquet") and not file.startswith(".") and folder.startswith(f"{_PARTITION}="):
                parts.append(self._read_part(f"{table}/{name}", unquote(folder.removeprefix(f"{_PARTITION}=")), schema))
        return pa.concat_tables(parts).combine_chunks()

    def _read_part(self, name: str, dataset: str, schema: pa.Schema) -> pa.Table:
        try:
            stored = pq.read_table(io.BytesIO(self._files.read(name)))
            columns = [
                pa.array([dataset] * stored.num_rows, pa.string())
                if field.name == _PARTITION
                else stored[field.name].cast(field.type)
                if field.name in stored.column_names
                else pa.nulls(stored.num_rows, field.type)
                for field in schema
            ]
        except (pa.ArrowException, OSError) as error:
            raise ChunkError(
                f"{self._files.url}/{name} cannot be read as Parquet ({error})", "remove it and run `measure` again"
            ) from error
        return pa.Table.from_arrays(columns, schema=schema)

    def parts(self, table: str) -> list[tuple[str, str]]:
        """(dataset, part) of each part, sorted."""
        found = []
        for name in self._files.listing(table):
            folder, _, file = name.rpartition("/")
            if file.endswith(".parquet") and not file.startswith(".") and folder.startswith(f"{_PARTITION}="):
                found.append((unquote(folder.removeprefix(f"{_PARTITION}=")), unquote(file.removesuffix(".parquet"))))
        return sorted(found)

    def check(self) -> list[str]:
        """What is wrong with the tables, a sentence each; empty when nothing is.

        Every part is read whole. Found are: torn parts, columns that are missing or of another type (written by another
        version), rows written twice, and tomograms that have parts in some tables only.
        """
        problems: list[str] = []
        parts = {table: set(self.parts(table)) for table in self.names()}
        for table, found in parts.items():
            if table not in self._schemas:
                problems.append(f"{table}: no table of this version")
                continue
            for dataset, part in sorted(found):
                problems += [
                    f"{_part_name(table, dataset, part)}: {what}" for what in self._faults(table, dataset, part)
                ]
        known = [table for table in parts if table in self._schemas]
        for dataset, part in sorted(set().union(*(parts[table] for table in known))) if known else []:
            if absent := [table for table in known if (dataset, part) not in parts[table]]:
                problems.append(f"dataset={dataset}, {part}: no part in {', '.join(absent)}; run `measure` again")
        return problems

    def _faults(self, table: str, dataset: str, part: str) -> list[str]:
        try:
            stored = pq.read_table(io.BytesIO(self._files.read(_part_name(table, dataset, part))))
        except (pa.ArrowException, OSError) as error:
            return [f"cannot be read as Parquet ({error}); remove it and run `measure` again"]
        faults = []
        for field in self._schema(table):
            if field.name not in stored.column_names:
                faults.append(f"no column {field.name}: written by another version")
            elif stored.schema.field(field.name).type != field.type:
                faults.append(f"column {field.name} is {stored.schema.field(field.name).type}, not {field.type}")
        if stored.num_columns and stored.group_by(stored.column_names).aggregate([]).num_rows != stored.num_rows:
            faults.append("has the same row twice")
        return faults

    def compact(self, target: Tables) -> dict[str, int]:
        """Write all rows anew below another URL, one part a table and dataset; returns the number of parts read.

        Nothing here is changed, so it is safe while others read and while `measure` goes on. Of a dataset that grows
        meanwhile, the copy has what was there when its turn came. ProjectError where `target` already has tables.
        """
        if target.names():
            raise ProjectError(f"there are tables below {target.url} already", "give a new folder for the compact copy")
        counts = {}
        for table in self.names():
            schema, parts = self._schema(table), self.parts(table)
            counts[table] = len(parts)
            for dataset in sorted({dataset for dataset, _ in parts}):
                full = schema.insert(0, pa.field(_PARTITION, pa.string()))
                read = [
                    self._read_part(_part_name(table, dataset, part), dataset, full).drop_columns([_PARTITION])
                    for of, part in parts
                    if of == dataset
                ]
                buffer = io.BytesIO()
                pq.write_table(pa.concat_tables(read).cast(schema), buffer, compression="zstd")
                target._files.write(_part_name(table, dataset, "all"), buffer.getvalue())
        return counts

    def names(self) -> list[str]:
        """The tables that have at least one part."""
        found = {name.split("/", 1)[0] for name in self._files.listing() if name.endswith(".parquet")}
        return sorted(name for name in found if not name.startswith(("_", ".")))

    def describe(self, table: str) -> list[tuple[str, str, str, str]]:
        """(name, type, unit, description) of each column."""
        return [
            (field.name, str(field.type), field.metadata[b"unit"].decode(), field.metadata[b"description"].decode())
            for field in self._schema(table)
        ]

    def _schema(self, table: str) -> pa.Schema:
        if table not in self._schemas:
            raise ProjectError(f"there is no table {table!r}", f"the tables are {', '.join(sorted(self._schemas))}")
        return pa.schema(
            pa.field(column.name, _KINDS[column.kind], metadata=_notes(column.unit, column.description))
            for column in self._schemas[table]
            if column.name != _PARTITION
        )


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


def _part_name(table: str, dataset: str, part: str) -> str:
    # Percent-encoding keeps every name one part of a path, and readers of hive partitions decode it.
    names = quote(dataset, safe=" @+,"), quote(part, safe=" @+,=")
    if any(not name or name.startswith(".") for name in names):
        raise BadNameError(f"part {part!r} of dataset {dataset!r} must not become a path", "use a plain name")
    return f"{table}/{_PARTITION}={names[0]}/{names[1]}.parquet"

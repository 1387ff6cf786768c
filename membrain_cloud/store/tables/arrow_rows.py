"""Rows and columns of the tables as pyarrow's tables and schemas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from membrain_cloud.errors import ChunkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.statistics.schema.tables import Column

PARTITION = "dataset"
"""The column that folder names give, so it is not stored in files."""
_TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the schema of a table's files, with unit and description in each field's metadata.

    Parameters
    ----------
    columns : sequence of Column
        The table's columns.
    """
    return pa.schema(
        pa.field(column.name, _TYPES[column.kind], metadata=field_metadata(column.unit, column.description))
        for column in columns
        if column.name != PARTITION
    )


def field_metadata(unit: str, description: str) -> dict[str, str]:
    """Return the metadata of a field.

    Parameters
    ----------
    unit : str
        Unit of the values; empty if they have none.
    description : str
        What the values are.
    """
    return {"unit": unit or "", "description": description}


def arrow_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; unknown values become NULL.

    Parameters
    ----------
    rows : sequence of Mapping
        Values by column. None, NaN, infinite and absent values are unknown.
    schema : pyarrow.Schema
        Columns of the table.

    Raises
    ------
    ValueError
        If a value of an integer column is fractional.
    """
    columns = [pa.array([_value(row.get(field.name), field.type) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def conform(stored: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows that another version wrote in this version's columns.

    Parameters
    ----------
    stored : pyarrow.Table
        Rows as stored.
    schema : pyarrow.Schema
        Columns of this version.

    Returns
    -------
    pyarrow.Table
        Values cast to this version's types; NULL in columns that are absent.

    Raises
    ------
    ChunkError
        If a value cannot be cast.
    """
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


def _value(value: Any, kind: pa.DataType) -> Any:
    """Return a value as the column's Python type; None if it is unknown."""
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

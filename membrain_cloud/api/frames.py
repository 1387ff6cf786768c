"""Rows of the tables as pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

_DTYPES = {"int": "Int64", "float": "float64", "text": "object", "bool": "boolean"}


def rows_as_frame(table: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of one table as a frame.

    Parameters
    ----------
    table : str
        Name of the table.
    rows : sequence of mapping
        Rows without the key columns of the tomogram; None is unknown.

    Returns
    -------
    DataFrame
        The columns of the table in its order, `membrane_id` first, with one dtype for each kind of column. Unknown is
        NaN in columns of floats, else NA or None.
    """
    import pandas as pd

    from membrain_cloud.statistics.schema.tables import ALL_TABLES, TOMOGRAM_KEYS

    keys = {column.name for column in TOMOGRAM_KEYS}
    columns = {column.name: column.kind for column in ALL_TABLES[table] if column.name not in keys}
    series = {
        name: pd.Series([row[name] for row in rows], dtype=cast("Any", _DTYPES[kind])) for name, kind in columns.items()
    }
    return pd.DataFrame(series)

"""Groups of rows and sums over them, as all curves need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from membrain_cloud.errors import UsageError

By = str | Sequence[str]
Group = tuple[Any, ...]
PAIR = ("object_name", "target_object_name")


def names_of(by: By, *more: str) -> list[str]:
    """The columns to group by, each once."""
    return list(dict.fromkeys([by, *more] if isinstance(by, str) else [*by, *more]))


def known_columns(table: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """The table. UsageError where it lacks a column."""
    for name in names:
        if name not in table.columns:
            raise UsageError(f"{what} has no column {name!r} to group by", f"it has {', '.join(table.columns)}")
    return table


def groups(table: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Group, pd.DataFrame]]:
    """(values of the group's columns, its rows), sorted; NULL is a value like others, and None in the group."""
    if not len(table):
        return
    if not names:
        yield (), table
        return
    for group, rows in table.groupby(list(names), dropna=False, observed=True):
        values: Group = group
        yield tuple(None if pd.isna(value) else value for value in values), rows


def sums(table: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """One row a group: the sums of columns, known values only."""
    if not names:
        return pd.DataFrame([table[list(columns)].sum()])
    return table.groupby(list(names), dropna=False, observed=True)[list(columns)].sum().reset_index()


def with_group(part: pd.DataFrame, names: Sequence[str], group: Group) -> pd.DataFrame:
    """A frame with the group's columns in front."""
    for place, (name, value) in enumerate(zip(names, group, strict=True)):
        part.insert(place, name, value)
    return part


def joined(parts: Sequence[pd.DataFrame], names: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
    """All parts in one frame; where there are none, a frame without rows but with the columns."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*names, *columns])


def ratio(above: Any, below: Any) -> Any:
    """Of two columns; NaN where the lower one is not above 0."""
    return (above / below).where(below > 0)

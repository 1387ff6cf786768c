"""Group the rows of a table and sum its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from membrain_cloud.errors import UsageError

By = str | Sequence[str]
"""Columns to group by: one name, several, or none."""

Group = tuple[Any, ...]
"""Values of the columns that a group is of."""

PAIR = ("object_name", "target_object_name")
"""Columns of a pair of kinds of particles."""


def group_columns(by: By, *more: str) -> list[str]:
    """Return the columns to group by, each once.

    Parameters
    ----------
    by : str or sequence of str
        The caller's columns.
    *more : str
        Columns that are always grouped by.

    Returns
    -------
    list of str
        Names without repetitions, in order.

    Examples
    --------
    >>> group_columns("run_name", "object_name")
    ['run_name', 'object_name']
    >>> group_columns(["object_name"], "object_name")
    ['object_name']
    """
    return list(dict.fromkeys([by, *more] if isinstance(by, str) else [*by, *more]))


def require_columns(table: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """Return the table if it has all columns.

    Parameters
    ----------
    table : DataFrame
        Rows of a table.
    names : sequence of str
        Columns that are grouped by.
    what : str
        Name of the table, for the message.

    Returns
    -------
    DataFrame
        The table itself.

    Raises
    ------
    UsageError
        If a column is absent.
    """
    for name in names:
        if name not in table.columns:
            raise UsageError(f"{what} has no column {name!r} to group by", f"it has {', '.join(table.columns)}")
    return table


def groups(table: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Yield each group and its rows, sorted by group.

    NULL is a value like others: it makes a group, in which it is None.

    Parameters
    ----------
    table : DataFrame
        Rows of a table.
    names : sequence of str
        Columns to group by; none yields all rows as one group.

    Yields
    ------
    tuple of Group and DataFrame
        Values of the group's columns, and its rows.
    """
    if not len(table):
        return
    if not names:
        yield (), table
        return
    for group, rows in table.groupby(list(names), dropna=False, observed=True):
        values: Group = group
        yield tuple(None if pd.isna(value) else value for value in values), rows


def sums(table: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Sum columns over each group; NULL counts as 0.

    Parameters
    ----------
    table : DataFrame
        Rows of a table.
    names : sequence of str
        Columns to group by; none sums over all rows.
    columns : sequence of str
        Columns to sum.

    Returns
    -------
    DataFrame
        One row a group: the group's columns, then the sums.

    Examples
    --------
    >>> table = pd.DataFrame({"run": ["a", "b", "a"], "n": [1, 2, 3]})
    >>> sums(table, ["run"], ["n"])
      run  n
    0   a  4
    1   b  2
    """
    if not names:
        return pd.DataFrame([table[list(columns)].sum()])
    return table.groupby(list(names), dropna=False, observed=True)[list(columns)].sum().reset_index()


def with_group(part: pd.DataFrame, names: Sequence[str], group: Group) -> pd.DataFrame:
    """Insert the group's columns in front of a frame, in place.

    Parameters
    ----------
    part : DataFrame
        The frame of one group.
    names : sequence of str
        The group's columns.
    group : Group
        Their values.

    Returns
    -------
    DataFrame
        The same frame.
    """
    for place, (name, value) in enumerate(zip(names, group, strict=True)):
        part.insert(place, name, value)
    return part


def joined(parts: Sequence[pd.DataFrame], names: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Join the frames of all groups.

    Parameters
    ----------
    parts : sequence of DataFrame
        One frame a group.
    names, columns : sequence of str
        Columns of the result if there is no group.

    Returns
    -------
    DataFrame
        All rows; none, but with columns, if there is no group.
    """
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*names, *columns])


def ratio(numerator: pd.Series[Any], denominator: pd.Series[Any]) -> pd.Series[Any]:
    """Divide two columns; NaN where the denominator is not above 0.

    Parameters
    ----------
    numerator, denominator : Series
        Columns of numbers.

    Returns
    -------
    Series
        The quotient.

    Examples
    --------
    >>> ratio(pd.Series([1.0, 1.0]), pd.Series([4.0, 0.0])).tolist()
    [0.25, nan]
    """
    return (numerator / denominator).where(denominator > 0)

"""The organelles of membranes: to group any statistic by, and the contacts of pairs of organelles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.tables.membranes import pair_summary
from membrain_cloud.tables.reader import MEMBRANE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from membrain_cloud.store.tables.parquet_tables import Tables

TABLE = "membrane_organelles"
# Rows of `measure` and of `organelle` are of one membrane where they agree in these: their digests differ.
_JOINED_BY = [name for name in MEMBRANE if name != "digest"]
_KINDS = ["organelle", "other_organelle"]


def organelles_of_membranes(tables: Tables) -> pd.DataFrame:
    """Return the organelle of each membrane.

    Parameters
    ----------
    tables : Tables
        The stored tables.

    Returns
    -------
    DataFrame
        The key columns of membranes without `digest`, and `organelle`, None where it is unknown.

    Raises
    ------
    UsageError
        If membranes have not been assigned to organelles.
    """
    if TABLE not in tables.names():
        raise UsageError(f"there is no table {TABLE}", "run the stage organelle first")
    frame: pd.DataFrame = tables.read(TABLE).to_pandas()
    return frame[[*_JOINED_BY, "organelle"]].drop_duplicates(_JOINED_BY, ignore_index=True)


def where_with_organelles(tables: Tables, where: pd.DataFrame | None) -> pd.DataFrame:
    """Return rows to keep with the organelle of each membrane.

    Parameters
    ----------
    tables : Tables
        The stored tables.
    where : DataFrame or None
        Rows to keep, see `tables.open`; None keeps all.

    Returns
    -------
    DataFrame
        One row a membrane: the key columns, `organelle`, and the other columns of `where`.
    """
    organelles = organelles_of_membranes(tables)
    if where is None:
        return organelles
    shared = [name for name in where.columns if name in _JOINED_BY]
    return organelles.merge(where.drop_duplicates(), on=shared, how="inner") if shared else where


def organelle_contacts(pairs: pd.DataFrame, organelles: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Summarise the distances between membranes by pairs of organelles.

    Parameters
    ----------
    pairs : DataFrame
        Rows of `membrane_pairs`.
    organelles : DataFrame
        What `organelles_of_membranes` returned.
    names : sequence of str
        Further columns to group by.

    Returns
    -------
    DataFrame
        The columns of `Analysis.organelle_contacts`.
    """
    other = organelles.rename(columns={"membrane_id": "other_membrane_id", "organelle": "other_organelle"})
    keys = [name for name in _JOINED_BY if name != "membrane_id"]
    pairs = pairs.drop(columns=[name for name in _KINDS if name in pairs.columns])
    pairs = pairs.merge(organelles, on=_JOINED_BY, how="left")
    pairs = pairs.merge(other, on=[*keys, "other_membrane_id"], how="left")
    return pair_summary(pairs, list(dict.fromkeys([*names, *_KINDS])), to_itself=False)

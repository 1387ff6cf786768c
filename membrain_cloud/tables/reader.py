"""Read the tables of a project as frames, filtered by `where`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.store.tables.parquet_tables import Tables

KEYS = ["dataset", "dataset_id", "run_name", "tomogram_id", "voxel_spacing_angstrom", "segmentation", "digest"]
"""Columns that `where` can filter tomograms by."""

MEMBRANE = [*KEYS, "membrane_id"]
"""Columns that `where` can filter membranes by."""


class TableReader:
    """The tables of a project as frames. Each call reads the files anew.

    Parameters
    ----------
    tables : Tables
        The stored tables.
    where : DataFrame or None
        Rows to keep, by all key columns that the frame has; its other columns are added to every frame. None keeps all.
    """

    def __init__(self, tables: Tables, where: pd.DataFrame | None = None) -> None:
        self._tables, self._where = tables, where

    def names(self) -> list[str]:
        """Return the names of the tables that have rows."""
        return list(self._tables.supported_names())

    def describe(self, table: str) -> pd.DataFrame:
        """Describe the columns of a table.

        Parameters
        ----------
        table : str
            Name of the table.

        Returns
        -------
        DataFrame
            `column`, `type`, `unit` and `description`, one row a column.
        """
        return pd.DataFrame(self._tables.describe(table), columns=["column", "type", "unit", "description"])

    def frame(self, table: str) -> pd.DataFrame:
        """Read a table as it is stored.

        Parameters
        ----------
        table : str
            Name of the table.

        Returns
        -------
        DataFrame
            The rows that `where` keeps; `.attrs["units"]` maps columns to units.

        Raises
        ------
        UsageError
            If `where` has no column of the table.
        """
        frame: pd.DataFrame = self._tables.read(table).to_pandas()
        if self._where is not None:
            shared = [name for name in self._where.columns if name in frame.columns]
            if not shared:
                raise UsageError("`where` has no column of the tables", f"give one of {', '.join(MEMBRANE)}")
            frame = frame.merge(self._where.drop_duplicates(), on=shared, how="inner")
        frame.attrs["units"] = {row[0]: row[2] for row in self._tables.describe(table)}
        return frame

    def dataset(self, table: str) -> Any:
        """Open a table for queries that read a part of it.

        Parameters
        ----------
        table : str
            Name of the table.

        Returns
        -------
        pyarrow.dataset.Dataset
            All rows, read when they are scanned. `where` is not applied.
        """
        return self._tables.dataset(table)

    def sql(self, query: str) -> pd.DataFrame:
        """Run an SQL query with DuckDB, which has to be installed.

        Parameters
        ----------
        query : str
            The query; it names the tables as `names` does.

        Returns
        -------
        DataFrame
            The answer.

        Raises
        ------
        UsageError
            If DuckDB is not installed. For a query that it cannot answer, DuckDB raises its own errors.
        """
        try:
            import duckdb
        except ImportError:
            raise UsageError("DuckDB is not installed", "pip install duckdb, or use frame() and dataset()") from None
        with duckdb.connect() as connection:
            for name in self.names():
                if name in query:
                    table = self.dataset(name) if self._where is None else self.frame(name)
                    connection.register(name, table)
            answer: pd.DataFrame = connection.sql(query).df()
        return answer

"""Open the Parquet tables of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.store.tables.parquet_tables import Tables

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


def open_tables(project: Project, url: str | None = None) -> Tables:
    """Open the tables at `url`, or by default those in the project's own folder.

    Parameters
    ----------
    project : Project
        The project whose tables are opened. Its storage options apply where `url` lies in the same kind of store.
    url : str, optional
        Folder or URL of the tables (the setting `output.tables`). Default: `membrain-cloud/tables` below the project.

    Returns
    -------
    Tables
        The tables; nothing is read or written yet.
    """
    if url is None:
        return Tables(f"{project.root_url}/membrain-cloud/tables", project.storage_options)
    same_store = url.partition("://")[0] == project.root_url.partition("://")[0] and "://" in url
    return Tables(url, project.storage_options if same_store else None)

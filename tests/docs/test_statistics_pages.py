"""The pages about statistics: queries run unchanged, and the tables and columns that they name exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from standins.pages import ROOT, blocks

from membrain_cloud.statistics.membrane.surface_properties import PROPERTY_NAMES
from membrain_cloud.statistics.schema.tables import ALL_TABLES

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((ROOT / "docs" / "statistics").glob("*.md"))
COLUMNS = {column.name for columns in ALL_TABLES.values() for column in columns} | set(PROPERTY_NAMES)


@pytest.fixture
def project_folder(measured_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a project and the tables of an imported folder, as the pages assume."""
    statistics = measured_project / "statistics"
    if not statistics.exists():
        statistics.symlink_to(measured_project / "project" / "membrain-cloud" / "tables")
    monkeypatch.chdir(measured_project)
    return measured_project


def test_every_table_has_a_page() -> None:
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [table for table in ALL_TABLES if f"`{table}`" not in text and f"/{table}/" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_runs_unchanged(page: Path, project_folder: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sql_runs_unchanged_and_returns_rows(page: Path, project_folder: Path) -> None:
    for query in blocks(page, "sql"):
        with duckdb.connect() as connection:
            assert len(connection.sql(query).df()) > 0, query


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_explained_columns_exist(page: Path) -> None:
    for line in page.read_text(encoding="utf-8").splitlines():
        cell = re.match(r"\| ((?:`\w+`(?:, )?)+) \|", line)
        for name in re.findall(r"`(\w+)`", cell[1]) if cell else ():
            exists = name in COLUMNS or name in ALL_TABLES or page.stem == "from-membrain-stats"
            assert exists, f"{page.name} explains {name}, which is no column"

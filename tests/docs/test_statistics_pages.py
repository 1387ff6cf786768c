"""The pages about statistics are true: their queries run as they stand, and name tables and columns that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from membrain_cloud.statistics.membrane.surface_properties import PROPERTY_NAMES
from membrain_cloud.statistics.schema.tables import TABLES

PAGES = sorted((Path(__file__).parents[2] / "docs" / "statistics").glob("*.md"))
COLUMNS = {column.name for columns in TABLES.values() for column in columns} | set(PROPERTY_NAMES)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(measured_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pages' queries are asked: beside a project, and the tables of an imported folder."""
    statistics = measured_project / "statistics"
    if not statistics.exists():
        statistics.symlink_to(measured_project / "project" / "membrain-cloud" / "tables")
    monkeypatch.chdir(measured_project)
    return measured_project


def test_there_is_a_page_for_each_kind_of_table() -> None:
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [table for table in TABLES if f"`{table}`" not in text and f"/{table}/" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_runs_as_it_stands(page: Path, here: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sql_runs_as_it_stands_and_finds_something(page: Path, here: Path) -> None:
    for query in blocks(page, "sql"):
        with duckdb.connect() as connection:
            assert len(connection.sql(query).df()) > 0, query


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_columns_that_a_page_explains_exist(page: Path) -> None:
    for line in page.read_text(encoding="utf-8").splitlines():
        cell = re.match(r"\| ((?:`\w+`(?:, )?)+) \|", line)
        for name in re.findall(r"`(\w+)`", cell[1]) if cell else ():
            known = name in COLUMNS or name in TABLES or page.stem == "from-membrain-stats"
            assert known, f"{page.name} explains {name}, which is no column"

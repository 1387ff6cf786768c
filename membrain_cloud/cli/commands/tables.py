"""Commands about tables: list, describe, check, compact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, exit_failed, print_json
from membrain_cloud.cli.options import absolute_path, json_option
from membrain_cloud.cli.project_options import config_path
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.store.tables.parquet_tables import Tables


@click.group()
def tables() -> None:
    """List, explain, check and compact the tables of a run."""


url_argument = click.argument("url", metavar="URL", callback=config_path)


@tables.command("list", cls=Command)
@url_argument
@json_option
def list_tables(url: str, *, as_json: bool) -> None:
    """List the tables with their numbers of rows.

    URL is the folder of the tables, or a copick config for the project's own.

    \b
    Example:
      membrain-cloud tables list project/config.json
    """
    tables = _open(url)
    rows = []
    for name in tables.supported_names():
        parts = tables.parts(name)
        rows.append((name, tables.count_rows(name), len(parts), len({dataset for dataset, _ in parts})))
    columns = ("table", "rows", "parts", "datasets")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        display.show_table(tables.url, columns, rows)


@tables.command(cls=Command)
@url_argument
@click.argument("table", required=False)
@json_option
def describe(url: str, *, table: str | None, as_json: bool) -> None:
    """Explain the columns: type, unit and meaning.

    Without TABLE the columns of all tables are explained.

    \b
    Example:
      membrain-cloud tables describe project/config.json membranes
    """
    tables = _open(url)
    names = tables.names()
    if table is not None and table not in names:
        raise UsageError(f"no table {table!r} below {tables.url}", f"there are: {', '.join(names) or 'none'}")
    descriptions = {name: tables.describe(name) for name in ([table] if table else names)}
    if as_json:
        keys = ("column", "type", "unit", "description")
        print_json({name: [dict(zip(keys, row, strict=True)) for row in rows] for name, rows in descriptions.items()})
        return
    for name, rows in descriptions.items():
        display.show_table(name, ("column", "type", "unit", "meaning"), rows)


@tables.command(cls=Command)
@url_argument
@json_option
def check(url: str, *, as_json: bool) -> None:
    """Check the tables for faults that make results wrong.

    Every part is read. Faults are torn and missing parts, columns of other types and units, duplicate rows, rows of
    other settings in one dataset, and rows that belong to no membrane or tomogram. The exit code is 1 if any is found.

    \b
    Example:
      membrain-cloud tables check project/config.json
    """
    from membrain_cloud.store.tables.check import check_tables

    tables = _open(url)
    problems = check_tables(tables)
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        print_json([problem.as_dict() for problem in problems])
    else:
        for problem in problems:
            click.echo(problem.line())
        parts = sum(len(tables.parts(name)) for name in tables.supported_names())
        verdict = f"{errors} errors" if errors else "nothing is wrong"
        click.echo(f"{tables.url}: {parts} parts read, {verdict}")
    if errors:
        exit_failed()


@tables.command(cls=Command)
@url_argument
@click.argument("target", required=False, callback=absolute_path)
@json_option
def compact(url: str, *, target: str | None, as_json: bool) -> None:
    """Copy the tables into few large files, for fast queries.

    There is one file for each table and dataset, in URL/compact. The parts stay, so reading and running may go on
    meanwhile. Rows that a run replaces afterwards are read from the new part, until the next `compact` renews the copy;
    current files are left alone. With TARGET the copy is written there instead, to be published.

    \b
    Examples:
      membrain-cloud tables compact project/config.json
      membrain-cloud tables compact s3://bucket/tables published-tables
    """
    from membrain_cloud.store.tables.parquet_tables import Tables

    tables, copy = _open(url), None if target is None else Tables(target)
    counts = tables.compact(copy)
    if as_json:
        print_json(counts)
        return
    rows = [(name, *(counts[name][key] for key in ("parts", "rows", "files"))) for name in counts]
    title = copy.url if copy else f"{tables.url}/compact"
    display.show_table(title, ("table", "parts", "rows copied", "files written"), rows)


def _open(url: str) -> Tables:
    """Open the tables of a project's config, or those below a URL, where there must be some."""
    from membrain_cloud.store.projects.open import is_config, open_project
    from membrain_cloud.store.tables.open import open_tables
    from membrain_cloud.store.tables.parquet_tables import Tables

    if is_config(url):
        return open_tables(open_project(url))
    tables = Tables(url)
    if not tables.names():
        raise UsageError(f"no tables below {url}", "run the stage measure first, or give another folder")
    return tables

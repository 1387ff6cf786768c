"""Verbs about tables: list, describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.program import Function, Program, Verb, absolute, json_option, print_json

if TYPE_CHECKING:
    from membrain_cloud.store.tables import Tables


def register(main: Program) -> None:
    main.add_command(tables)


@click.group()
def tables() -> None:
    """The Parquet tables of a run: what there is, and what each column means."""


def _url_argument(function: Function) -> Function:
    return click.argument("url", metavar="URL", callback=lambda _c, _p, value: absolute(value))(function)


@tables.command("list", cls=Verb)
@_url_argument
@json_option
def list_tables(url: str, as_json: bool) -> None:
    """List the tables below URL (a folder, or a copick config for the project's own), with their numbers of rows.

    \b
    Example:
      membrain-cloud tables list project/config.json
    """
    found = _open(url)
    rows = [(name, found.read(name).num_rows) for name in found.names()]
    if as_json:
        print_json([{"table": name, "rows": count} for name, count in rows])
    else:
        display.show_table(found.url, ("table", "rows"), rows)


@tables.command(cls=Verb)
@_url_argument
@click.argument("table", required=False)
@json_option
def describe(url: str, table: str | None, as_json: bool) -> None:
    """Say what the columns of a table (or of all) hold, and in which unit.

    \b
    Example:
      membrain-cloud tables describe project/config.json membranes
    """
    from membrain_cloud.errors import UsageError

    found = _open(url)
    names = found.names()
    if table is not None and table not in names:
        raise UsageError(f"no table {table!r} below {found.url}", f"there are: {', '.join(names) or 'none'}")
    described = {name: found.describe(name) for name in ([table] if table else names)}
    if as_json:
        keys = ("column", "type", "unit", "description")
        print_json({name: [dict(zip(keys, row, strict=True)) for row in rows] for name, rows in described.items()})
        return
    for name, rows in described.items():
        display.show_table(name, ("column", "type", "unit", "what"), rows)


def _open(url: str) -> Tables:
    from membrain_cloud.pipeline.plan import open_tables
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.project import Project
    from membrain_cloud.store.tables import Tables

    if url.endswith(".json"):
        return open_tables(Project.open(url), Settings())
    return Tables(url)

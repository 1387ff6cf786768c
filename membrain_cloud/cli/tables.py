"""Verbs about tables: list, describe, check, compact."""

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


@tables.command(cls=Verb)
@_url_argument
@json_option
def check(url: str, as_json: bool) -> None:
    """Read every part of the tables below URL and say what is wrong; exit code 1 if anything is.

    \b
    Example:
      membrain-cloud tables check project/config.json
    """
    found = _open(url)
    problems = found.check()
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"{found.url}: {len(problems)} problems" if problems else f"{found.url}: all parts are whole")
    if problems:
        click.get_current_context().exit(1)


@tables.command(cls=Verb)
@_url_argument
@click.argument("target", callback=lambda _c, _p, value: absolute(value))
@json_option
def compact(url: str, target: str, as_json: bool) -> None:
    """Write the tables below URL anew below TARGET, one file a table and dataset. URL stays as it is.

    Queries over many tomograms are faster on few large files. Nothing below URL is touched, so others may read it, and
    `measure` may write there, meanwhile.

    \b
    Example:
      membrain-cloud tables compact project/config.json compact-tables
    """
    from membrain_cloud.store.tables import Tables

    found, copy = _open(url), Tables(target)
    counts = found.compact(copy)
    if as_json:
        print_json(counts)
    else:
        display.show_table(copy.url, ("table", "files before"), list(counts.items()))


def _open(url: str) -> Tables:
    from membrain_cloud.pipeline.plan import open_tables
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.opening import is_config, open_project
    from membrain_cloud.store.tables import Tables

    if is_config(url):
        return open_tables(open_project(url), Settings())
    return Tables(url)

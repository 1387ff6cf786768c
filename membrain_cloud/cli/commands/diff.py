"""The command `diff`: what changed between two annotations or two sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json
from membrain_cloud.cli.options import json_option
from membrain_cloud.cli.project_options import config_argument, runs_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Columns that hold lists of instance numbers: the table shows how many there are.
_LISTS = ("matched", "split", "merged", "mixed", "gone", "new")


@click.command(cls=Command)
@config_argument
@click.argument("first", metavar="FIRST")
@click.argument("second", metavar="SECOND")
@runs_option
@click.option(
    "--radius",
    type=click.FloatRange(0, min_open=True),
    default=63.36,
    show_default=True,
    metavar="A",
    help="Largest distance between two picks that are the same particle, in Å.",
)
@json_option
def diff(config: str, first: str, second: str, *, runs: tuple[str, ...], radius: float, as_json: bool) -> None:
    """Show what changed between two annotations.

    Voxels, membranes and picks are compared. FIRST and SECOND are copick URIs, or user/session for all annotations of a
    session. Membranes are matched by the voxels that they share, picks one to one within the radius.

    \b
    Examples:
      membrain-cloud diff project/config.json membrane:membrain/1a2b3c4d@10.0 membrane:alice/3@10.0 -r TS_1
      membrain-cloud diff project/config.json membrain/1a2b3c4d alice/3
    """
    from membrain_cloud.pipeline.evaluation.diff import differences
    from membrain_cloud.store.projects.open import open_project

    rows = differences(open_project(config), list(runs), first, second, radius_angstrom=radius)
    if as_json:
        print_json(rows)
        return
    for kind in dict.fromkeys(row["kind"] for row in rows):
        _show(kind, [row for row in rows if row["kind"] == kind])


def _show(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "kind"]
    cells = [[len(row[key]) if key in _LISTS and key in row else row.get(key) for key in columns] for row in rows]
    display.show_table(kind, [column.replace("_", " ") for column in columns], cells)

"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from membrain_cloud.cli.app import error_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from membrain_cloud.errors import MembrainCloudError

# Width of tables in scripts and logs, in characters.
_WIDTH = 200


def console() -> Console:
    """Return a console on standard output, 200 characters wide where it is no terminal."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table to standard output.

    Parameters
    ----------
    title : str
        Line above the table; empty for none.
    columns : sequence of str
        Heads of the columns.
    rows : iterable of sequence
        A cell for each column. None is printed as `-`, a float with three decimals.
    """
    from rich.table import Table
    from rich.text import Text

    output = console()
    if title:
        output.print(title, soft_wrap=True)
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    output.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def show_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    """Print scores as a table with a row for each score and a column for each tomogram.

    Parameters
    ----------
    scores : sequence of mapping
        For each tomogram its name, `run`, and its scores by name.
    """
    names = list(dict.fromkeys(key for row in scores for key in row if key != "run"))
    rows = [(name.replace("_", " "), *(row.get(name) for row in scores)) for name in names]
    show_table("", ("score", *(str(row["run"]) for row in scores)), rows)


def show_failed_files(failures: Sequence[tuple[str, MembrainCloudError]], count: int) -> None:
    """Print a table of the files of a batch that failed to standard error.

    Parameters
    ----------
    failures : sequence of (str, MembrainCloudError)
        The files and their errors.
    count : int
        Number of files in all.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console(stderr=True, highlight=False)
    output = terminal if terminal.is_terminal else Console(stderr=True, highlight=False, width=_WIDTH)
    output.print(f"{len(failures)} of {count} files failed", soft_wrap=True)
    table = Table()
    for column in ("file", "cause", "next step"):
        table.add_column(column, overflow="fold")
    for file, error in failures:
        table.add_row(
            *map(Text, (file, error.message.removeprefix(f"{file}: "), error_line(error).rpartition(" -> ")[2]))
        )
    output.print(table)

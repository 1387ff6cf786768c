"""Checks of the command `doctor` on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from membrain_cloud.pipeline.diagnosis.check import Check

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "absent": None}
_SUBJECT_WIDTH = 20


def show_check(check: Check) -> None:
    """Print a check as a line to standard output, with its cure on a second line.

    Parameters
    ----------
    check : Check
        The check.
    """
    state = click.style(f"{check.state:<8}", fg=_COLOURS[check.state])
    click.echo(f"{state}{check.subject:<{_SUBJECT_WIDTH}} {check.detail}")
    if check.cure:
        click.echo(f"{'':<8}{'':<{_SUBJECT_WIDTH}} -> {check.cure}")

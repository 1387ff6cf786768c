"""Call `membrain-cloud` in this process, as a test needs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from click.testing import CliRunner, Result

from membrain_cloud.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator


def call(*arguments: str) -> Result:
    """Return the result of a command."""
    return CliRunner().invoke(main, list(arguments))


def call_json(*arguments: str) -> Any:
    """Return the JSON that a successful command prints."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def commands(group: click.Group = main, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands that are no groups, by their words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command

"""The argument CONFIG and the option `--run`, which commands on a project share."""

from __future__ import annotations

import fnmatch
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from membrain_cloud.cli.options import absolute
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")

# Characters that make the name of a run a pattern.
_PATTERN = re.compile(r"[*?\[]")


def config_path(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the value of CONFIG as an absolute path or URL; of a local folder its `config.json`, if it holds one.

    Parameters
    ----------
    _ctx, _param
        Not used.
    value : str or None
        The value on the command line.

    Returns
    -------
    str or None
        The absolute path or URL; None for an absent argument.
    """
    if not value:
        return value
    inside = Path(value) / "config.json"
    return absolute(str(inside)) if "://" not in value and inside.is_file() else absolute(value)


def config_argument(function: Function) -> Function:
    """Add the argument CONFIG: a copick config, a folder that holds one, or a manifest; a path or URL."""
    return click.argument("config", metavar="CONFIG", callback=config_path)(function)


def runs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--run`, which limits a command with CONFIG to some runs of the project, given by name or pattern."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        kwargs["runs"] = _matching_runs(kwargs["config"], kwargs["runs"])
        return function(*args, **kwargs)

    text = "Only this run (tomogram) of the project; a pattern such as 'TS_*' is several (repeatable; default: all)."
    return click.option("-r", "--run", "runs", multiple=True, metavar="RUN", help=text)(command)


def _matching_runs(config: str, runs: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of runs with those that match in place of each pattern; without a pattern nothing is listed."""
    if not any(_PATTERN.search(name) for name in runs):
        return runs
    from membrain_cloud.store.projects.open import open_project

    names = open_project(config).runs()
    chosen: dict[str, None] = {}
    for name in runs:
        matching = [name] if name in names or not _PATTERN.search(name) else fnmatch.filter(names, name)
        if not matching:
            examples = ", ".join(names[:3]) or "none"
            raise UsageError(f"{config}: no run matches {name}", f"there are {len(names)} runs: {examples}, ...")
        chosen.update(dict.fromkeys(matching))
    return tuple(chosen)

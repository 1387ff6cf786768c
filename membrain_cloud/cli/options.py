"""Options of the command line: groups of them as typed objects, and those that several commands share.

A group is a frozen dataclass whose fields are options::

    @option_group
    class Placement:
        workers: int | None = option("--workers", type=click.IntRange(1), metavar="N", help="Number of processes.")

    @click.command(cls=Command)
    @takes(Placement)
    @json_option
    def run(placement: Placement, *, as_json: bool) -> None: ...

`takes` adds the options and calls the command with one `Placement`, whose fields mypy knows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, dataclass_transform, overload

import click

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Kind
    from membrain_cloud.store.projects.project import Project

Function = TypeVar("Function", bound=Callable[..., Any])
Group = TypeVar("Group")
First = TypeVar("First")
Second = TypeVar("Second")
Third = TypeVar("Third")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

_DECLARATION = "option"


def option(*names: str, **attributes: Any) -> Any:
    """Declare a field of an option group.

    Parameters
    ----------
    *names : str
        Names on the command line, e.g. `-o`, `--output`. The parameter is named after the field.
    **attributes : Any
        Other parameters of `click.option`, e.g. `type`, `default`, `help`.

    Returns
    -------
    Any
        The field. A `default` is the field's default too.
    """
    metadata = {_DECLARATION: (names, attributes)}
    if "default" in attributes:
        return field(default=attributes["default"], metadata=metadata)
    return field(metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def option_group(cls: type[Group]) -> type[Group]:
    """Make a class whose fields are declared by `option` a frozen dataclass."""
    return dataclass(frozen=True, kw_only=True)(cls)


@overload
def takes(first: type[First], /) -> Callable[[Callable[Concatenate[First, Rest], Result]], Callable[Rest, Result]]: ...
@overload
def takes(
    first: type[First], second: type[Second], /
) -> Callable[[Callable[Concatenate[First, Second, Rest], Result]], Callable[Rest, Result]]: ...
@overload
def takes(
    first: type[First], second: type[Second], third: type[Third], /
) -> Callable[[Callable[Concatenate[First, Second, Third, Rest], Result]], Callable[Rest, Result]]: ...
def takes(*groups: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of the groups to a command, and pass it one object of each group.

    Parameters
    ----------
    *groups : type
        Up to three classes made by `option_group`. The command's first parameters take their objects, in this order.

    Returns
    -------
    Callable
        A decorator. In the help the options are listed in the order of the groups and of their fields.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            objects = [group(**{part.name: kwargs.pop(part.name) for part in fields(group)}) for group in groups]
            return function(*objects, *args, **kwargs)

        for part in reversed([part for group in groups for part in fields(group)]):
            names, attributes = part.metadata[_DECLARATION]
            click.option(part.name, *names, **attributes)(command)
        return command

    return decorate


def absolute(path: str) -> str:
    """Return a local path as an absolute one, since workers run in other folders.

    Parameters
    ----------
    path : str
        A path or URL.

    Returns
    -------
    str
        The path, absolute and without `..`; a URL unchanged.
    """
    return path if "://" in path else os.path.normpath(Path.cwd() / path)


def absolute_path(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the value of a path option as an absolute path or URL, as a callback of click.

    Parameters
    ----------
    _ctx, _param
        Not used.
    value : str or None
        The value on the command line.

    Returns
    -------
    str or None
        The absolute path or URL; None for an absent option.
    """
    return absolute(value) if value else value


def json_option(function: Function) -> Function:
    """Add `--json`, which prints the result for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")(function)


def output_exists(path: str) -> UsageError:
    """Return the error for an output file that exists and may not be replaced.

    Parameters
    ----------
    path : str
        The output file.

    Returns
    -------
    UsageError
        With `--overwrite` as the next step.
    """
    return UsageError(f"{path}: the file exists already", "give another name, or add --overwrite")


@option_group
class SettingsOptions:
    """The settings of a command."""

    settings_file: str | None = option("--settings", metavar="FILE", help="YAML file of settings (default: built-in).")
    overrides: tuple[str, ...] = option(
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        help="One setting, e.g. segment.threshold=0.5; replaces the value of --settings (repeatable).",
    )

    def load(self, *more: str) -> Settings:
        """Return the checked settings.

        Parameters
        ----------
        *more : str
            Settings `stage.key=value` that replace those of `--set`.

        Returns
        -------
        Settings
            Defaults, then the file, then `--set`, then `more`.

        Raises
        ------
        UsageError
            The file cannot be read, a key is unknown or a value is out of range.
        """
        from membrain_cloud.pipeline.settings import load_settings

        return load_settings(self.settings_file, (*self.overrides, *more))


@option_group
class TablesOptions:
    """The place of the tables."""

    tables: str | None = option(
        "--tables", metavar="URL", help="Folder or URL of the Parquet tables (default: the project's own tables)."
    )

    def tables_setting(self) -> tuple[str, ...]:
        """Return the option as a setting `stage.key=value`, or nothing where it is absent."""
        return () if self.tables is None else (f"output.tables={absolute(self.tables)}",)


@option_group
class PlanOptions(TablesOptions, SettingsOptions):
    """What a plan depends on: settings, the place of the tables, and stages."""

    stages: str | None = option(
        "--stages",
        metavar="A,B,...",
        help="Only these stages of segment,separate,mesh,pick,measure,context,organelle (default: all that apply).",
    )

    def load(self, *more: str) -> Settings:
        """Return the checked settings, with the place of the tables.

        Parameters
        ----------
        *more : str
            Settings `stage.key=value` that replace those of `--set`.

        Returns
        -------
        Settings
            Defaults, then the file, then `--set`, then `more`, then `--tables`.
        """
        return super().load(*more, *self.tables_setting())

    def plan(
        self,
        project: Project,
        settings: Settings,
        runs: tuple[str, ...],
        worker_memory_bytes: Mapping[Kind, int] | None = None,
    ) -> Plan:
        """Return the plan: what a run of these stages has left to do. Nothing is written.

        Parameters
        ----------
        project : Project
            The project or manifest.
        settings : Settings
            The settings that `load` returned.
        runs : tuple of str
            Names of runs; empty for all.
        worker_memory_bytes : mapping of str to int, optional
            Memory in bytes of the largest worker for GPU and for CPU tasks; tasks that need more are refused. By
            default no task is refused for its memory.

        Returns
        -------
        Plan
            Tasks in their order, and outcomes known already.
        """
        from membrain_cloud.pipeline.planning.plan import plan
        from membrain_cloud.pipeline.stages.registry import STAGES

        names = [name.strip() for name in self.stages.split(",") if name.strip()] if self.stages else None
        return plan(project, settings, STAGES, runs=runs or None, stages=names, worker_memory_bytes=worker_memory_bytes)


@option_group
class WorkersOptions:
    """The number of local processes."""

    workers: int | None = option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Number of local processes (default: as many as memory and cores allow).",
    )


@option_group
class PlacementOptions(WorkersOptions):
    """Where tasks are executed."""

    scheduler: str | None = option(
        "--scheduler",
        metavar="ADDRESS",
        help="Address of a Dask scheduler, tcp://host:8786 or tls://... (default: local processes).",
    )
    in_process: bool = option(
        "--in-process", is_flag=True, help="Execute one task after the other in this process, without Dask."
    )

    def check(self) -> None:
        """Raise UsageError where more than one place is given."""
        if sum((self.workers is not None, self.scheduler is not None, self.in_process)) > 1:
            raise UsageError("--workers, --scheduler and --in-process exclude each other", "give one of them")


@option_group
class TrainedModelOptions:
    """Where a training writes."""

    output: str = option("--output", required=True, metavar="FILE", help="Model to write, FILE.safetensors.")
    work: str = option(
        "--work",
        required=True,
        metavar="DIR",
        help="Folder of data and state; the same command continues a stopped training.",
    )
    seed: int | None = option(
        "--seed", type=int, metavar="N", help="Seed of all random numbers (default: the recipe's)."
    )


@option_group
class NetworkTrainingOptions:
    """How a segmentation network is trained: options of every command that trains one."""

    base: str | None = option(
        "--from",
        metavar="MODEL",
        help="Fine-tune this model: a built-in name, a .safetensors file or a MemBrain-seg .ckpt (default: train from "
        "random weights).",
    )
    recipe: str = option(
        "--recipe",
        type=click.Choice(["built-in", "membrain-seg"]),
        default="built-in",
        show_default=True,
        help="Recipe that gives the values of all options left out.",
    )
    epochs: int | None = option(
        "--epochs",
        type=click.IntRange(1),
        metavar="N",
        help="Passes over your own data (default: 300, with --recipe membrain-seg 1000, with --from 100).",
    )
    steps: int | None = option(
        "--steps",
        type=click.IntRange(1),
        metavar="N",
        help="Optimiser steps, in place of --epochs (default on simulated specimens: 4500).",
    )
    channels: str | None = option(
        "--channels", metavar="N,N,...", help="Channels of each level, finest first (default: the recipe's)."
    )
    window: int | None = option(
        "--window",
        type=click.IntRange(16),
        metavar="VOXELS",
        help="Edge of the training patches in voxels (default: the recipe's: 64 or 160).",
    )
    batch: int | None = option(
        "--batch", type=click.IntRange(1), metavar="N", help="Patches in an optimiser step (default: 2)."
    )
    learning_rate: float | None = option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        metavar="RATE",
        help="Initial learning rate (default: 0.0015, with --recipe membrain-seg 0.01, with --from 0.00001).",
    )
    augmentations: str | None = option(
        "--augmentations",
        type=click.Choice(["simulated", "membrain-seg", "none"]),
        help="Set of augmentations (default: the recipe's; for your own data membrain-seg).",
    )
    threads: int | None = option(
        "--threads", type=click.IntRange(1), metavar="N", help="CPU threads of the network (default: 2)."
    )
    device: str | None = option(
        "--device", metavar="NAME", help="Device of the network, cpu or cuda (default: cuda where there is one)."
    )

    def values(self) -> dict[str, Any]:
        """Return the given values that replace the recipe's, by their name in `SegmentationTraining`.

        Returns
        -------
        dict
            Only options that were given.

        Raises
        ------
        UsageError
            Both epochs and steps are given, or the channels are not numbers.
        """
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps exclude each other", "give one of them")
        values = {
            "steps": self.steps,
            "channels": None if self.channels is None else integers("--channels", self.channels, "16,32,64"),
            "window": self.window,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "threads": self.threads,
        }
        return {name: value for name, value in values.items() if value is not None}


def integers(name: str, text: str, example: str) -> tuple[int, ...]:
    """Return the integers of an option's value that separates them by commas.

    Parameters
    ----------
    name : str
        The option, e.g. `--channels`.
    text : str
        Its value.
    example : str
        A good value, for the error.

    Returns
    -------
    tuple of int
        The numbers in their order.

    Raises
    ------
    UsageError
        A part is no integer.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"{name} {text}: expected integers separated by commas", f"try {name} {example}") from None

"""Verbs about networks: train, evaluate."""

from __future__ import annotations

from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.program import (
    Program,
    Verb,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
    settings_options,
)


def register(main: Program) -> None:
    for command in (train, evaluate):
        main.add_command(command)


@click.group()
def train() -> None:
    """Train networks, on simulated tomograms."""


def _training_options(function: Any) -> Any:
    options = [
        click.option("--output", required=True, metavar="FILE", help="The model to write (.safetensors)."),
        click.option("--work", required=True, metavar="DIR", help="Keeps data and state: a stopped training goes on."),
        click.option("--seed", type=int, help="Of everything that is drawn."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@train.command("segmentation", cls=Verb)
@_training_options
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.")
@click.option("--channels", metavar="N,N,...", help="Of each level of the network, finest first.")
@click.option("--window", type=click.IntRange(16), help="Edge of the patches, in voxels.")
@click.option("--batch", type=click.IntRange(1), help="Patches a step.")
@click.option("--specimens", type=click.IntRange(1), help="Simulated specimens to train on.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the network.")
@click.option("--workers", type=click.IntRange(0), help="Processes that prepare patches.")
@click.option("--device", help="cpu or cuda (default: cuda where there is one).")
def train_segmentation(output: str, work: str, channels: str | None, device: str | None, **chosen: int | None) -> None:
    """Train a segmentation network. Options that are not given take the values of the built-in model.

    \b
    Example:
      membrain-cloud train segmentation --output model.safetensors --work training --steps 4500
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.pipeline.learning import train_segmentation

    values: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if channels is not None:
        try:
            values["channels"] = tuple(int(number) for number in channels.split(","))
        except ValueError:
            raise UsageError(f"--channels {channels}: expected numbers", "try --channels 16,32,64") from None
    click.echo(train_segmentation(output, work, values, device=device, progress=lambda n, line: say(f"{n}: {line}")))


@train.command("picking", cls=Verb)
@_training_options
@click.option("--phantoms", type=click.IntRange(1), help="Simulated tomograms to train on.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over them.")
def train_picking(output: str, work: str, **chosen: int | None) -> None:
    """Train a picker. Options that are not given take the values of the built-in model.

    \b
    Example:
      membrain-cloud train picking --output picker.safetensors --work training --epochs 28
    """
    from membrain_cloud.pipeline.learning import train_picking

    values = {name: value for name, value in chosen.items() if value is not None}
    print_json(train_picking(output, work, values, progress=say))


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@click.option("--truth", metavar="URI", help="True segmentation, e.g. membrane:truth/0.")
@click.option("--truth-instances", metavar="URI", help="True membranes, e.g. membrane:truth/0?instance=true.")
@click.option("--truth-picks", metavar="URI", help="True particles, e.g. membrane-protein:truth/0.")
@click.option("--radius", type=float, default=63.36, show_default=True, help="A pick is right within it, in Å.")
@json_option
def evaluate(
    config: str,
    runs: tuple[str, ...],
    truth: str | None,
    truth_instances: str | None,
    truth_picks: str | None,
    radius: float,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Score what a run made against annotations taken as true: Dice, Surface-Dice, membranes found, particle F1.

    \b
    Example:
      membrain-cloud evaluate project/config.json --truth membrane:alice/3 --truth-picks psii:expert/1
    """
    from membrain_cloud.cli.running import chosen_settings, make_plan
    from membrain_cloud.pipeline.evaluation import Truth, evaluate_plan
    from membrain_cloud.store.opening import open_project

    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    project = open_project(config)
    made = make_plan(project, settings, runs, chosen["stages"])
    scores = evaluate_plan(project, made, Truth(truth, truth_instances, truth_picks), radius_angstrom=radius)
    if as_json:
        print_json(scores)
    else:
        display.show_scores(scores)

"""Verbs about networks: segment a file, train, evaluate, models."""

from __future__ import annotations

import os
from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.program import (
    Program,
    Verb,
    absolute,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
    settings_options,
)


def register(main: Program) -> None:
    for command in (segment, train, evaluate, models):
        main.add_command(command)


@click.command(cls=Verb)
@click.argument("file", metavar="FILE")
@click.option("--model", metavar="NAME|PATH", help="A built-in model or a file (default: segment.model).")
@click.option("--output", default=".", metavar="DIR", help="Where the files are written (default: here).")
@click.option("--voxel-spacing", type=float, metavar="A", help="Voxel spacing in Å, in place of the header's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set segment.mode=exact.")
@json_option
def segment(
    file: str,
    model: str | None,
    output: str,
    voxel_spacing: float | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Segment the membranes of one file: writes <stem>_scores.mrc and <stem>_segmented.mrc.

    \b
    Example:
      membrain-cloud segment tomogram.mrc --output out --set segment.mode=exact
    """
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.single import segment_file

    chosen = () if model is None else (f"segment.model={model}",)
    settings = load_settings(None, (*overrides, *chosen)).segment
    with display.Bar("windows") as bar:
        made = segment_file(file, settings, output=output, voxel_spacing_angstrom=voxel_spacing, progress=bar.update)
    for note in made.notes:
        say(f"{file}: {note}")
    if as_json:
        print_json(vars(made))
    else:
        click.echo(f"{made.scores}\n{made.segmented}")


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
    from membrain_cloud.cli.running import _plan, _settings
    from membrain_cloud.pipeline.evaluation import Truth, evaluate_plan
    from membrain_cloud.store.project import Project

    settings = _settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    project = Project.open(config)
    made = _plan(project, settings, runs, chosen["stages"])
    scores = evaluate_plan(project, made, Truth(truth, truth_instances, truth_picks), radius_angstrom=radius)
    if as_json:
        print_json(scores)
    else:
        display.show_scores(scores)


@click.group()
def models() -> None:
    """The models that ship with the package, and model files."""


@models.command("list", cls=Verb)
@json_option
def list_models(as_json: bool) -> None:
    """List the built-in models.

    \b
    Example:
      membrain-cloud models list
    """
    from membrain_cloud.networks.checkpoints import built_in_models
    from membrain_cloud.pipeline.learning import model_facts

    facts = [model_facts(name) for name in built_in_models()]
    if as_json:
        print_json(facts)
        return
    rows = [(f["name"], f["task"], f"{f['bytes'] / 1e6:.1f} MB", f["sha256"][:12]) for f in facts]
    display.show_table("", ("name", "task", "size", "sha256"), rows)


@models.command(cls=Verb)
@click.argument("model", metavar="NAME|PATH")
@json_option
def info(model: str, as_json: bool) -> None:
    """Say what a model is, what it was trained on, and how well it did.

    \b
    Example:
      membrain-cloud models info membrain-cloud-small
    """
    from membrain_cloud.pipeline.learning import model_facts

    facts = model_facts(model if not os.path.exists(model) else absolute(model))
    if as_json:
        print_json(facts)
        return
    display.show_table(str(facts["name"]), ("what", "value"), [(key, value) for key, value in facts.items()])

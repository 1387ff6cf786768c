"""Verbs that train several times to learn how well training does: cross-validate, rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    Function,
    Program,
    Verb,
    absolute,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
)
from membrain_cloud.cli.commands.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.training.cross_validation import Hire
    from membrain_cloud.pipeline.training.training_job import LearningJob


def register(main: Program) -> None:
    for command in (cross_validate, rounds):
        train.add_command(command)


def _shared_options(function: Function) -> Function:
    options = [
        click.option("--labels", multiple=True, required=True, metavar="URI", help="As in `train segmentation`."),
        click.option("--work", required=True, metavar="DIR", help="Keeps models, states and tables; workers reach it."),
        click.option("--from", "base", metavar="MODEL", help="Go on from this model."),
        click.option(
            "--recipe", type=click.Choice(["built-in", "membrain-seg"]), default="built-in", show_default=True
        ),
        click.option("--epochs", type=click.IntRange(1), help="Passes over the data."),
        click.option("--steps", type=click.IntRange(1), help="Optimiser steps, in place of epochs."),
        click.option("--channels", metavar="N,N,...", help="Of each level of the network, finest first."),
        click.option("--window", type=click.IntRange(16), help="Edge of the patches, in voxels."),
        click.option("--batch", type=click.IntRange(1), help="Patches a step."),
        click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Where the schedule begins."),
        click.option(
            "--augmentations", type=click.Choice(["simulated", "membrain-seg", "none"]), help="All, by a name."
        ),
        click.option("--seed", type=int, default=1, show_default=True, help="Of everything that is drawn."),
        click.option("--threads", type=click.IntRange(1), help="Threads of each training."),
        click.option("--loaders", "workers", type=click.IntRange(0), help="Processes a training that prepare patches."),
        click.option("--device", help="cpu or cuda (default: cuda where there is one)."),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of the segmentation that is scored."
        ),
        click.option(
            "--workers", "processes", type=click.IntRange(1), help="Local processes (default: as many as fit)."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, in place of local processes."),
        click.option("--in-process", is_flag=True, help="One after the other, here."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _job(config: str, chosen: Mapping[str, Any]) -> LearningJob:
    from membrain_cloud.errors import UsageError
    from membrain_cloud.pipeline.training.training_job import LearningJob

    names = ("steps", "window", "batch", "learning_rate", "seed", "threads", "workers")
    values = {name: chosen[name] for name in names if chosen[name] is not None}
    if chosen["channels"] is not None:
        try:
            values["channels"] = tuple(int(number) for number in chosen["channels"].split(","))
        except ValueError:
            raise UsageError(f"--channels {chosen['channels']}: expected numbers", "try --channels 16,32,64") from None
    if chosen["epochs"] is not None and chosen["steps"] is not None:
        raise UsageError("--epochs and --steps say the same in two ways", "give one of them")
    return LearningJob(
        name="",
        config=config,
        labels=chosen["labels"],
        training=(),
        held_out=(),
        work=absolute(chosen["work"]),
        recipe=chosen["recipe"],
        values=values,
        base=chosen["base"],
        epochs=chosen["epochs"],
        augmentations=chosen["augmentations"],
        settings=chosen["overrides"],
        device=chosen["device"],
    )


def _hire(chosen: Mapping[str, Any]) -> Hire:
    """Where jobs are done."""
    from membrain_cloud.errors import UsageError

    where = {"workers": chosen["processes"], "scheduler": chosen["scheduler"], "in_process": chosen["in_process"]}
    if sum(bool(value) for value in where.values()) > 1:
        raise UsageError("--workers, --scheduler and --in-process exclude each other", "give one of them")

    def hire(jobs: Sequence[Mapping[str, Any]], done: Callable[[int, dict[str, Any]], None]) -> list[dict[str, Any]]:
        from membrain_cloud.pipeline.runners.job_pool import run_jobs
        from membrain_cloud.pipeline.training.training_job import work_job

        return run_jobs(work_job, jobs, done=done, **where)

    return hire


@train.command("cross-validate", cls=Verb)
@config_argument
@runs_option
@_shared_options
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Each tomogram is held out once.")
@json_option
def cross_validate(config: str, runs: tuple[str, ...], folds: int, as_json: bool, **chosen: Any) -> None:
    """Train a segmentation network once for each fold of a project's tomograms, and score it on the fold held out.

    One fold a worker. A finished fold is not done again, so the same command goes on after a stop. Scores of all
    tomograms: cross-validation.parquet, .csv and .png in --work. Held-out masks: membrane:cross-validation/...

    \b
    Example:
      membrain-cloud train cross-validate project/config.json --labels membrane:alice/3@10.0 --work folds --folds 5
    """
    from membrain_cloud.pipeline.training.cross_validation import cross_validate as validated
    from membrain_cloud.store.projects.open import open_project

    project, hire = open_project(config), _hire(chosen)
    rows = validated(project, runs, _job(config, chosen), hire, folds=folds, seed=chosen["seed"], progress=say)
    _show(rows, ("fold", "run"), as_json)


@train.command("rounds", cls=Verb)
@config_argument
@_shared_options
@click.option(
    "--dataset",
    "data_sets",
    multiple=True,
    required=True,
    metavar="NAME=RUN,...",
    help="To be added, in this order; runs or patterns of runs (TS_0*).",
)
@click.option(
    "--held-out", multiple=True, required=True, metavar="NAME=RUN,...", help="To be scored on in every round."
)
@click.option("--anew", is_flag=True, help="Each round from the start, not from the model of the one before.")
@json_option
def rounds(
    config: str, data_sets: tuple[str, ...], held_out: tuple[str, ...], anew: bool, as_json: bool, **chosen: Any
) -> None:
    """Train in rounds, each with one data set more, and score every round on all that is held out.

    Round k trains on the data sets 1 to k, from the model of round k-1. Finished rounds are not done again. Scores of
    all rounds: rounds.parquet, .csv and .png in --work.

    \b
    Example:
      membrain-cloud train rounds project/config.json --labels membrane:alice/3@10.0 --work rounds \\
          --dataset chlamy=TS_0* --dataset spinach=SP_1,SP_2 --held-out chlamy-test=TS_10 --held-out yeast=Y_*
    """
    from membrain_cloud.pipeline.training.cross_validation import DataSet, train_rounds
    from membrain_cloud.store.projects.open import open_project

    rows = train_rounds(
        open_project(config),
        _job(config, chosen),
        _hire(chosen),
        data_sets=[DataSet.parse(text) for text in data_sets],
        held_out=[DataSet.parse(text) for text in held_out],
        anew=anew,
        progress=say,
    )
    _show(rows, ("round", "added", "data_set", "run"), as_json)


def _show(rows: Sequence[Mapping[str, Any]], names: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(list(rows))
        return
    scores = ("dice", "surface_dice", "surface_precision", "surface_recall")
    columns = [name.replace("_", " ") for name in (*names, *scores)]
    display.show_table("", columns, [[row[name] for name in (*names, *scores)] for row in rows])

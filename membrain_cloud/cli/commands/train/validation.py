"""Commands that train several times to measure how well training does: cross-validate, rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import (
    NetworkTrainingOptions,
    PlacementOptions,
    absolute,
    json_option,
    option,
    option_group,
    takes,
)
from membrain_cloud.cli.project_options import config_argument, runs_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.training.cross_validation import RunJobs
    from membrain_cloud.pipeline.training.training_job import TrainingJob


@option_group
class JobOptions(NetworkTrainingOptions):
    """What all trainings of a command have in common."""

    labels: tuple[str, ...] = option(
        "--labels",
        multiple=True,
        required=True,
        metavar="URI",
        help="Labels of the project, e.g. membrane:alice/1@10 (repeatable; a later one takes precedence).",
    )
    work: str = option(
        "--work",
        required=True,
        metavar="DIR",
        help="Folder of models, states and tables, which all workers reach.",
    )
    seed: int = option(
        "--seed", type=int, default=1, show_default=True, metavar="N", help="Seed of all random numbers."
    )
    loaders: int | None = option(
        "--loaders",
        type=click.IntRange(0),
        metavar="N",
        help="Processes of each training that prepare patches (default: 1, more with a GPU).",
    )
    overrides: tuple[str, ...] = option(
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        help="Setting of the segmentation that is scored, e.g. segment.mode=exact (repeatable).",
    )

    def job(self, config: str) -> TrainingJob:
        """Return the job without the runs of a single training.

        Parameters
        ----------
        config : str
            Config of the project.

        Raises
        ------
        UsageError
            Both epochs and steps are given, or the channels are not numbers.
        """
        from membrain_cloud.pipeline.training.training_job import TrainingJob

        values = self.values() | {"seed": self.seed} | ({} if self.loaders is None else {"workers": self.loaders})
        return TrainingJob(
            name="",
            config=config,
            labels=self.labels,
            training=(),
            held_out=(),
            work=absolute(self.work),
            recipe=self.recipe,
            values=values,
            base=self.base,
            epochs=self.epochs,
            augmentations=self.augmentations,
            settings=self.overrides,
            device=self.device,
        )


def _executor(placement: PlacementOptions) -> RunJobs:
    """Return the function that executes jobs at the given place."""
    placement.check()

    def execute(jobs: Sequence[Mapping[str, Any]], done: Callable[[int, dict[str, Any]], None]) -> list[dict[str, Any]]:
        from membrain_cloud.pipeline.runners.job_pool import run_jobs
        from membrain_cloud.pipeline.training.training_job import run_training_job

        return run_jobs(
            run_training_job,
            jobs,
            done=done,
            workers=placement.workers,
            scheduler=placement.scheduler,
            in_process=placement.in_process,
        )

    return execute


@click.command("cross-validate", cls=Command)
@config_argument
@runs_option
@takes(JobOptions, PlacementOptions)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of folds; each tomogram is held out in one of them.",
)
@json_option
def cross_validate(
    options: JobOptions, placement: PlacementOptions, config: str, *, runs: tuple[str, ...], folds: int, as_json: bool
) -> None:
    """Cross-validate the training of a segmentation network.

    A network is trained for each fold of a project's tomograms and scored on the fold held out. Each fold is trained by
    one worker. Finished folds are kept, so the same command continues after a stop. Scores of all tomograms:
    cross-validation.parquet, .csv and .png in --work. Held-out masks: membrane:cross-validation/...

    \b
    Example:
      membrain-cloud train cross-validate project/config.json --labels membrane:alice/3@10.0 --work folds --folds 5
    """
    from membrain_cloud.pipeline.training import cross_validation
    from membrain_cloud.store.projects.open import open_project

    project, execute = open_project(config), _executor(placement)
    rows = cross_validation.cross_validate(
        project, runs, options.job(config), execute, folds=folds, seed=options.seed, progress=say
    )
    _show(rows, ("fold", "run"), as_json)


@click.command("rounds", cls=Command)
@config_argument
@takes(JobOptions, PlacementOptions)
@click.option(
    "--dataset",
    "data_sets",
    multiple=True,
    required=True,
    metavar="NAME=RUN,...",
    help="Data set that one round adds: runs or patterns of runs, e.g. chlamy=TS_0* (repeatable, in this order).",
)
@click.option(
    "--held-out",
    multiple=True,
    required=True,
    metavar="NAME=RUN,...",
    help="Data set that every round is scored on: runs or patterns of runs (repeatable).",
)
@click.option(
    "--anew", is_flag=True, help="Train each round from the start (default: from the model of the round before)."
)
@json_option
def rounds(
    options: JobOptions,
    placement: PlacementOptions,
    config: str,
    *,
    data_sets: tuple[str, ...],
    held_out: tuple[str, ...],
    anew: bool,
    as_json: bool,
) -> None:
    """Train in rounds, each with one data set more.

    Every round is scored on all held-out data sets. Round k trains on the data sets 1 to k, from the model of round
    k-1. Finished rounds are kept. Scores of all rounds: rounds.parquet, .csv and .png in --work.

    \b
    Example:
      membrain-cloud train rounds project/config.json --labels membrane:alice/3@10.0 --work rounds \\
          --dataset chlamy=TS_0* --dataset spinach=SP_1,SP_2 --held-out chlamy-test=TS_10 --held-out yeast=Y_*
    """
    from membrain_cloud.pipeline.training.cross_validation import DataSet, train_rounds
    from membrain_cloud.store.projects.open import open_project

    rows = train_rounds(
        open_project(config),
        options.job(config),
        _executor(placement),
        data_sets=[DataSet.parse(text) for text in data_sets],
        held_out=[DataSet.parse(text) for text in held_out],
        from_scratch=anew,
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

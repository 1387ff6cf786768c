"""Cross-validation over tomograms, and rounds of training on more and more data sets; each training is a job."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.training.labelled_volumes import find_layers
from membrain_cloud.pipeline.training.training_job import TrainingJob, score_table
from membrain_cloud.report.score_figure import scores_figure
from membrain_cloud.store.tables.row_export import write_bytes, write_rows

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

RunJobs = Callable[[Sequence[Mapping[str, Any]], Callable[[int, dict[str, Any]], None]], list[dict[str, Any]]]
"""Takes jobs and a callback, which gets the index and the result of each finished job; returns results in the order of
the jobs."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DataSet:
    """A named set of runs.

    Attributes
    ----------
    name : str
        Its name.
    patterns : tuple of str
        Names of runs, or patterns of names (`TS_0*`).
    """

    name: str
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> DataSet:
        """Parse a data set.

        Parameters
        ----------
        text : str
            `NAME=RUN,RUN,...`

        Returns
        -------
        data_set : DataSet
            The data set.

        Raises
        ------
        UsageError
            If the text has another form.
        """
        name, equals, patterns = text.partition("=")
        listed = tuple(pattern for pattern in patterns.split(",") if pattern)
        if not (name and equals and listed):
            raise UsageError(f"{text!r} names no data set", "write NAME=RUN,RUN or NAME=PATTERN, e.g. chlamy=TS_0*")
        return cls(name, listed)

    def matching_runs(self, runs: Sequence[str]) -> list[str]:
        """Return the runs of this data set.

        Parameters
        ----------
        runs : sequence of str
            Names of the runs that exist.

        Returns
        -------
        matches : list of str
            Those that match a pattern, sorted.

        Raises
        ------
        UsageError
            If a pattern matches no run.
        """
        matches: list[str] = []
        for pattern in self.patterns:
            matching = fnmatch.filter(runs, pattern)
            if not matching:
                raise UsageError(
                    f"{self.name}: no run with these labels fits {pattern!r}", f"there are {', '.join(runs[:8])}"
                )
            matches += matching
        return sorted(set(matches))


def labelled_runs(project: Project, runs: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the runs that have labels.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of runs; empty: all runs of the project.
    labels : sequence of str
        URIs of the labels; a run needs one of them.

    Returns
    -------
    labelled : list of str
        Sorted names.
    """
    return [run for run in sorted(set(runs)) or project.runs() if find_layers(project, run, labels)]


def make_folds(runs: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Distribute tomograms over folds at random; each is held out once.

    Parameters
    ----------
    runs : sequence of str
        Names of runs; their order does not matter.
    count : int
        Number of folds.
    seed : int
        Seed of the distribution.

    Returns
    -------
    folds : list of list of str
        Sorted names for each fold; sizes differ by one at most.

    Raises
    ------
    UsageError
        If there are less than two folds, or fewer tomograms than folds.
    """
    if not 2 <= count <= len(runs):
        raise UsageError(
            f"{len(runs)} tomograms with these labels cannot make {count} folds",
            "choose a number of folds from 2 to that of the tomograms",
        )
    shuffled = sorted(runs)
    random.Random(seed).shuffle(shuffled)
    return [sorted(shuffled[k::count]) for k in range(count)]


def cross_validate(
    project: Project,
    runs: Sequence[str],
    job: TrainingJob,
    run_jobs: RunJobs,
    *,
    folds: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train once for each fold on the tomograms of the other folds, and score on its own tomograms.

    Finished folds with the same data and recipe are not repeated.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of runs; empty: all runs with labels.
    job : TrainingJob
        What all folds share. Its folder `work` gets a subfolder for each fold, and the table
        `cross-validation.parquet`, `.csv` and `.png`.
    run_jobs : callable
        Runs the jobs.
    folds : int
        Number of folds.
    seed : int
        Seed of the distribution over folds.
    progress : callable
        Called with a line of text for each fold.

    Returns
    -------
    rows : list of dict
        Scores of each tomogram.

    Raises
    ------
    UsageError
        If the tomograms cannot make so many folds.
    """
    parts = make_folds(labelled_runs(project, runs, job.labels), folds, seed)
    jobs = []
    for number, held_out in enumerate(parts, 1):
        others = tuple(sorted(run for part in parts if part is not held_out for run in part))
        name = f"fold-{number}"
        one = replace(
            job, name=name, training=others, validation=_choose_validation([others]), held_out=tuple(held_out),
            work=str(Path(job.work).absolute() / name),
        )  # fmt: skip
        jobs.append(one.with_digest(project))
    results = _run_unfinished(jobs, run_jobs, progress)
    return _write_table(score_table(results, "fold"), job.work, "cross-validation", "fold")


def train_rounds(
    project: Project,
    job: TrainingJob,
    run_jobs: RunJobs,
    *,
    data_sets: Sequence[DataSet],
    held_out: Sequence[DataSet],
    from_scratch: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train in rounds: round k trains on data sets 1 to k and is scored on all held-out data sets.

    Finished rounds with the same data and recipe are not repeated.

    Parameters
    ----------
    project : Project
        The project.
    job : TrainingJob
        What all rounds share. Its folder `work` gets a subfolder for each round, and the table `rounds.parquet`, `.csv`
        and `.png`.
    run_jobs : callable
        Runs the jobs.
    data_sets, held_out : sequence of DataSet
        Data sets to train on, in this order, and data sets to score on.
    from_scratch : bool
        Whether every round starts from the beginning. Otherwise a round fine-tunes the model of the one before, and the
        first one `job.base`, if there is one.
    progress : callable
        Called with a line of text for each round.

    Returns
    -------
    rows : list of dict
        Scores of each round and tomogram, with `data_set` of the tomogram, and `added`, the data set that the round
        added.

    Raises
    ------
    UsageError
        If a tomogram is both trained on and held out, or two data sets have the same name.

    References
    ----------
    Lamm et al., "MemBrain v2", bioRxiv 2024: the incremental training of MemBrain-seg.
    """
    labelled = labelled_runs(project, (), job.labels)
    runs_of = {one.name: one.matching_runs(labelled) for one in (*data_sets, *held_out)}
    if len(runs_of) < len(data_sets) + len(held_out):
        raise UsageError("two data sets have one name", "name each differently")
    tested = {run: one.name for one in held_out for run in runs_of[one.name]}
    both = sorted(set(tested) & {run for one in data_sets for run in runs_of[one.name]})
    if both:
        raise UsageError(f"{both[0]} is trained on and held out", "give it in one place")
    rounds: list[TrainingJob] = []
    results: list[dict[str, Any]] = []
    for number in range(1, len(data_sets) + 1):
        runs = sorted({run for one in data_sets[:number] for run in runs_of[one.name]})
        name = f"round-{number}"
        one = replace(
            job, name=name, training=tuple(runs), held_out=tuple(sorted(tested)),
            validation=_choose_validation([runs_of[one.name] for one in data_sets[:number]]),
            work=str(Path(job.work).absolute() / name), user="rounds",
        )  # fmt: skip
        if from_scratch:
            rounds.append(one.with_digest(project))
            continue
        base = results[-1]["model"] if results else job.base
        results += _run_unfinished([replace(one, base=base).with_digest(project)], run_jobs, progress)
    results = results or _run_unfinished(rounds, run_jobs, progress)
    added = {f"round-{k}": one.name for k, one in enumerate(data_sets, 1)}
    rows = [
        {"round": row["round"], "added": added[row["round"]], "data_set": tested[row["run"]], **row}
        for row in score_table(results, "round")
    ]
    return _write_table(rows, job.work, "rounds", "round")


def _choose_validation(data_sets: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the runs to validate on: every fifth of each data set, else the last of the largest if it has two."""
    every_fifth = {run for runs in data_sets for run in sorted(runs)[4::5]}
    largest = max(data_sets, key=len)
    return tuple(sorted(every_fifth or sorted(largest)[1:][-1:]))


def _run_unfinished(jobs: Sequence[TrainingJob], run_jobs: RunJobs, progress: Progress) -> list[dict[str, Any]]:
    """Read the results of finished jobs and run the others; return all results in the order of the jobs."""
    results = {job.name: job.load_result() for job in jobs}
    for result in results.values():
        if result is not None:
            progress(_line(result, "was finished"))
    unfinished = [job for job in jobs if results[job.name] is None]
    new = run_jobs([job.as_dict() for job in unfinished], lambda _index, result: progress(_line(result, "finished")))
    results |= {job.name: result for job, result in zip(unfinished, new, strict=True)}
    return [result for job in jobs if (result := results[job.name]) is not None]


def _line(result: Mapping[str, Any], state: str) -> str:
    rows = result["rows"]
    mean = sum(row["surface_dice"] for row in rows) / max(1, len(rows))
    return f"{result['name']} {state}: Surface-Dice {mean:.3f} on {len(rows)} tomograms"


def _write_table(rows: list[dict[str, Any]], work: str, name: str, group: str) -> list[dict[str, Any]]:
    """Write rows as Parquet, CSV and a figure, and return them."""
    for ending in ("parquet", "csv"):
        write_rows(str(Path(work) / f"{name}.{ending}"), rows)
    write_bytes(str(Path(work) / f"{name}.png"), scores_figure(rows, title=name, group=group))
    return rows

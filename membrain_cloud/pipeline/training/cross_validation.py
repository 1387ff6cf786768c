"""Cross-validation by tomograms, and rounds of training on more and more data sets; each training is a job."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.training.labelled_volumes import layers_of
from membrain_cloud.pipeline.training.training_job import LearningJob, table_of
from membrain_cloud.report.score_figure import scores_figure
from membrain_cloud.store.tables.row_export import write_bytes, write_rows

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

# Does jobs in some order and returns their results in the given one; `done` is told of each.
Hire = Callable[[Sequence[Mapping[str, Any]], Callable[[int, dict[str, Any]], None]], list[dict[str, Any]]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class DataSet:
    """A name, and patterns of runs (`TS_0*`)."""

    name: str
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> DataSet:
        """`NAME=RUN,RUN,...`; UsageError for anything else."""
        name, equals, patterns = text.partition("=")
        listed = tuple(pattern for pattern in patterns.split(",") if pattern)
        if not (name and equals and listed):
            raise UsageError(f"{text!r} names no data set", "write NAME=RUN,RUN or NAME=PATTERN, e.g. chlamy=TS_0*")
        return cls(name, listed)

    def of(self, runs: Sequence[str]) -> list[str]:
        """Its runs, of those that are there. UsageError for a pattern that fits none."""
        found: list[str] = []
        for pattern in self.patterns:
            fitting = fnmatch.filter(runs, pattern)
            if not fitting:
                raise UsageError(
                    f"{self.name}: no run with these labels fits {pattern!r}", f"there are {', '.join(runs[:8])}"
                )
            found += fitting
        return sorted(set(found))


def labelled_runs(project: Project, runs: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Those that have any of the labels, sorted."""
    return [run for run in sorted(set(runs)) or project.runs() if layers_of(project, run, labels)]


def folds_of(runs: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Tomograms dealt out to folds, at random but by the seed alone; each is held out once.

    UsageError for less than two folds, or less tomograms than folds.
    """
    if not 2 <= count <= len(runs):
        raise UsageError(
            f"{len(runs)} tomograms with these labels cannot make {count} folds", "give --folds from 2 to their number"
        )
    shuffled = sorted(runs)
    random.Random(seed).shuffle(shuffled)
    return [sorted(shuffled[k::count]) for k in range(count)]


def cross_validate(
    project: Project, runs: Sequence[str], job: LearningJob, hire: Hire, *, folds: int, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Train once for each fold on the other folds' tomograms, and score on its own; returns a row a tomogram.

    job : what all folds share; its `work` gets a folder a fold, and `cross-validation.parquet`, `.csv` and `.png`.
    Folds that are finished, with the same data and recipe, are not done again. progress : told a line a fold.
    """
    parts = folds_of(labelled_runs(project, runs, job.labels), folds, seed)
    jobs = []
    for number, held_out in enumerate(parts, 1):
        others = tuple(sorted(run for part in parts if part is not held_out for run in part))
        name = f"fold-{number}"
        one = replace(
            job, name=name, training=others, validation=_held_back([others]), held_out=tuple(held_out),
            work=str(Path(job.work).absolute() / name),
        )  # fmt: skip
        jobs.append(one.with_digest(project))
    results = _carry_out(jobs, hire, progress)
    return _keep(table_of(results, "fold"), job.work, "cross-validation", "fold")


def train_rounds(
    project: Project,
    job: LearningJob,
    hire: Hire,
    *,
    data_sets: Sequence[DataSet],
    held_out: Sequence[DataSet],
    anew: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The paper's incremental rounds: round k trains on the data sets 1 to k, and is scored on all held-out ones.

    A round goes on from the model of the one before it (the first from `job.base`, if that is given), or with `anew`
    each from the start. Returns a row a round and tomogram, with `data_set` of the tomogram and `added`, the data set
    that the round has added; also written to `work` as `rounds.parquet`, `.csv` and `.png`. Finished rounds are not
    done again.

    Raises UsageError where a tomogram is both trained on and held out.
    """
    there = labelled_runs(project, (), job.labels)
    of_set = {one.name: one.of(there) for one in (*data_sets, *held_out)}
    if len(of_set) < len(data_sets) + len(held_out):
        raise UsageError("two data sets have one name", "name each differently")
    tested = {run: one.name for one in held_out for run in of_set[one.name]}
    both = sorted(set(tested) & {run for one in data_sets for run in of_set[one.name]})
    if both:
        raise UsageError(f"{both[0]} is trained on and held out", "give it in one place")
    rounds: list[LearningJob] = []
    results: list[dict[str, Any]] = []
    for number in range(1, len(data_sets) + 1):
        runs = sorted({run for one in data_sets[:number] for run in of_set[one.name]})
        name = f"round-{number}"
        one = replace(
            job, name=name, training=tuple(runs), held_out=tuple(sorted(tested)),
            validation=_held_back([of_set[one.name] for one in data_sets[:number]]),
            work=str(Path(job.work).absolute() / name), user="rounds",
        )  # fmt: skip
        if anew:
            rounds.append(one.with_digest(project))
            continue
        base = results[-1]["model"] if results else job.base
        results += _carry_out([replace(one, base=base).with_digest(project)], hire, progress)
    results = results or _carry_out(rounds, hire, progress)
    added = {f"round-{k}": one.name for k, one in enumerate(data_sets, 1)}
    rows = [
        {"round": row["round"], "added": added[row["round"]], "data_set": tested[row["run"]], **row}
        for row in table_of(results, "round")
    ]
    return _keep(rows, job.work, "rounds", "round")


def _held_back(data_sets: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Every fifth run of each data set, to validate on; else the last of the largest, if that leaves any of it."""
    every_fifth = {run for runs in data_sets for run in sorted(runs)[4::5]}
    largest = max(data_sets, key=len)
    return tuple(sorted(every_fifth or sorted(largest)[1:][-1:]))


def _carry_out(jobs: Sequence[LearningJob], hire: Hire, progress: Progress) -> list[dict[str, Any]]:
    """What is finished is read, the rest is done."""
    results = {job.name: job.result() for job in jobs}
    for result in results.values():
        if result is not None:
            progress(_line(result, "was finished"))
    todo = [job for job in jobs if results[job.name] is None]
    hired = hire([job.as_dict() for job in todo], lambda _index, result: progress(_line(result, "finished")))
    results |= {job.name: result for job, result in zip(todo, hired, strict=True)}
    return [result for job in jobs if (result := results[job.name]) is not None]


def _line(result: Mapping[str, Any], state: str) -> str:
    rows = result["rows"]
    mean = sum(row["surface_dice"] for row in rows) / max(1, len(rows))
    return f"{result['name']} {state}: Surface-Dice {mean:.3f} on {len(rows)} tomograms"


def _keep(rows: list[dict[str, Any]], work: str, name: str, group: str) -> list[dict[str, Any]]:
    for ending in ("parquet", "csv"):
        write_rows(str(Path(work) / f"{name}.{ending}"), rows)
    write_bytes(str(Path(work) / f"{name}.png"), scores_figure(rows, title=name, group=group))
    return rows

"""Folds and rounds: every tomogram is held out once, finished ones are not repeated, one table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.pipeline.evaluation.scores import annotation_scores
from membrain_cloud.pipeline.models import model_sha256
from membrain_cloud.pipeline.runners.job_pool import run_jobs
from membrain_cloud.pipeline.training.cross_validation import (
    DataSet,
    _choose_validation,
    cross_validate,
    make_folds,
    train_rounds,
)
from membrain_cloud.pipeline.training.training_job import TrainingJob, run_training_job
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

RUNS = ("TS_1", "TS_2", "TS_3", "TS_4")
SHAPE = (32, 32, 32)
LABELS = ("membrane:alice/1@10.0",)
TINY = {
    "channels": (4, 8, 8),
    "window": 16,
    "batch": 1,
    "steps": 2,
    "workers": 0,
    "threads": 1,
    "validation_patches": 1,
}
QUICK = ("segment.mirrors=no", "segment.overlap=0", "segment.precision=float32")


def make(folder: Path) -> Project:
    project = create_project(str(folder), objects=[("membrane", False, "GO:0016020")])
    z, y, x = np.indices(SHAPE)
    for seed, run in enumerate(RUNS):
        shell = np.abs(np.sqrt((z - 16) ** 2 + (y - 14 - seed) ** 2 + (x - 16) ** 2) - 9) < 2.5
        density = np.random.default_rng(seed).normal(size=SHAPE) - 3 * shell
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), density.astype(np.float32))
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "1", 10.0), shell.astype(np.uint8))
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make(tmp_path / "p")


@pytest.fixture
def job(project: Project, tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        name="", config=project.config, labels=LABELS, training=(), held_out=(), work=str(tmp_path / "work"),
        recipe="built-in", values=TINY, augmentations="none", settings=QUICK, device="cpu",
    )  # fmt: skip


class Recorder:
    """Run jobs in this process and record their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(
        self, jobs: Sequence[Mapping[str, Any]], done: Callable[[int, dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        self.names += [job["name"] for job in jobs]
        # Serialised as on the way to a worker.
        return run_jobs(run_training_job, json.loads(json.dumps(jobs)), in_process=True, done=done)


def quiet(_line: str) -> None:
    pass


def test_every_tomogram_is_held_out_once() -> None:
    runs = [f"TS_{k}" for k in range(11)]
    folds = make_folds(runs, 4, 7)
    assert sorted(run for fold in folds for run in fold) == sorted(runs)
    assert {len(fold) for fold in folds} == {2, 3}
    assert make_folds(runs[::-1], 4, 7) == folds
    assert make_folds(runs, 4, 8) != folds
    with pytest.raises(UsageError, match="11 tomograms"):
        make_folds(runs, 12, 7)


def test_folds_are_scored_on_unseen_tomograms_and_not_repeated(project: Project, job: TrainingJob) -> None:
    recorder = Recorder()
    rows = cross_validate(project, (), job, recorder, folds=2, seed=1, progress=quiet)
    assert recorder.names == ["fold-1", "fold-2"]
    assert sorted(row["run"] for row in rows) == list(RUNS)
    # one of the two others is used for validation
    assert {row["trained_on"] for row in rows} == {1}
    work = Path(job.work)
    assert pq.read_table(work / "cross-validation.parquet").to_pylist() == rows
    with (work / "cross-validation.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in rows]
    assert (work / "cross-validation.png").read_bytes().startswith(b"\x89PNG")
    for row in rows:
        told = json.loads((work / row["fold"] / "scores.json").read_text())
        assert row["run"] not in told["training"]
        assert row["model_sha256"] == model_sha256(str(work / row["fold"] / "model.safetensors"))
        (mask,) = [ref for ref in project.segmentations(row["run"]) if ref.user == "cross-validation"]
        again = annotation_scores(
            project, [row["run"]], mask.uri, LABELS[0], radius_angstrom=60.0, tolerance_angstrom=20.0
        ).rows
        assert again[0]["dice"] == row["dice"]
        receipts = project.receipts.parts(f"segment/{mask.user}_{mask.session}/{row['run']}/membrane@10.000")
        assert receipts["complete"]["model"]["sha256"] == row["model_sha256"]
    lines: list[str] = []
    assert cross_validate(project, (), job, recorder, folds=2, seed=1, progress=lines.append) == rows
    assert recorder.names == ["fold-1", "fold-2"], "finished folds are not repeated"
    assert all("was finished" in line for line in lines)
    (work / "fold-2" / "scores.json").unlink()
    cross_validate(project, (), job, recorder, folds=2, seed=1, progress=quiet)
    assert recorder.names[2:] == ["fold-2"]


def test_edited_labels_and_other_recipes_change_the_digest(project: Project, job: TrainingJob) -> None:
    one = replace(job, name="fold-1", training=("TS_1",), held_out=("TS_2",))
    first = one.with_digest(project)
    assert replace(one, values={**TINY, "threads": 2}).with_digest(project).digest == first.digest
    assert replace(one, values={**TINY, "steps": 3}).with_digest(project).digest != first.digest
    project.write_segmentation(SegmentationRef("TS_2", "membrane", "alice", "1", 10.0), np.ones(SHAPE, np.uint8))
    assert one.with_digest(project).digest != first.digest
    with pytest.raises(ProjectError, match="TS_1 has none"):
        replace(one, labels=("membrane:nobody/1@10.0",)).with_digest(project)


def test_rounds_add_data_sets_and_fine_tune_the_last_model(project: Project, job: TrainingJob) -> None:
    recorder = Recorder()
    sets = [DataSet.parse("first=TS_1"), DataSet.parse("second=TS_2")]
    held_out = [DataSet.parse("near=TS_3"), DataSet.parse("far=TS_4*")]
    how = {"data_sets": sets, "held_out": held_out, "from_scratch": False, "progress": quiet}
    rows = train_rounds(project, job, recorder, **how)  # type: ignore[arg-type]
    assert [(row["round"], row["added"], row["data_set"], row["trained_on"]) for row in rows] == [
        ("round-1", "first", "near", 1), ("round-1", "first", "far", 1),
        ("round-2", "second", "near", 2), ("round-2", "second", "far", 2),
    ]  # fmt: skip
    assert pq.read_table(Path(job.work) / "rounds.parquet").to_pylist() == rows
    second = json.loads((Path(job.work) / "round-2" / "scores.json").read_text())
    assert second["base_sha256"] == rows[0]["model_sha256"]
    assert train_rounds(project, job, recorder, **how) == rows  # type: ignore[arg-type]
    assert recorder.names == ["round-1", "round-2"]
    with pytest.raises(UsageError, match="TS_1 is trained on and held out"):
        train_rounds(project, job, recorder, **how | {"held_out": [DataSet.parse("near=TS_1")]})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="fits 'X"):
        train_rounds(project, job, recorder, **how | {"held_out": [DataSet.parse("near=X*")]})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="NAME=RUN"):
        DataSet.parse("TS_1")


def test_validation_leaves_something_of_every_data_set() -> None:
    many = [f"M_{k}" for k in range(1, 12)]
    assert _choose_validation([["A"]]) == _choose_validation([["A"], ["B"]]) == ()
    assert _choose_validation([["A_1", "A_2"], ["B"]]) == ("A_2",)
    assert _choose_validation([["B"], ["A_1", "A_2", "A_3"], ["C_1", "C_2"]]) == ("A_3",)
    assert _choose_validation([["B"], many, many[:4]]) == (sorted(many)[4], sorted(many)[9])


@pytest.mark.slow
def test_folds_are_trained_by_dask_workers(project: Project, job: TrainingJob, tmp_path: Path) -> None:
    words = [
        "train", "cross-validate", project.config, "--labels", LABELS[0], "--work", str(tmp_path / "dask"),
        "--folds", "2", "--workers", "2", "--steps", "2", "--channels", "4,8,8", "--window", "16", "--batch", "1",
        "--threads", "1", "--loaders", "1", "--augmentations", "none", "--device", "cpu",
    ]  # fmt: skip
    words += [word for key in QUICK for word in ("--set", key)]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert sorted(row["run"] for row in json.loads(result.stdout)) == list(RUNS)
    assert open_project(project.config).segmentations("TS_1")

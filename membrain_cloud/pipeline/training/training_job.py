"""One training and its scores on tomograms it has not seen: a fold of a cross-validation, or a round of several.

A job is JSON-able and is done anywhere that reaches the project and the folder `work`. It leaves `model.safetensors`,
what the training keeps to go on from, and last `scores.json`, which says that it is done; the masks of the
held-out tomograms are annotations in the project, with receipts that name the model.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import InputError, ProjectError
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.evaluation.scores import Layers, segmentation_counts, segmentation_scores
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.models import model_sha256, read_header
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners.in_process import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.training.labelled_volumes import layers_of
from membrain_cloud.pipeline.training.segmentation import TrainingData, TrainingPlan, train_segmentation
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.open import open_project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

DATA_VERSION = 2
# Fields that say where a job is done, and not what; of the base its content counts.
_WHERE = ("config", "work", "device", "digest", "base")


@dataclass(frozen=True)
class LearningJob:
    """name : of the fold or the round.  labels : URIs, merged in this order.  training, held_out : runs.
    validation : those of `training` that are held back to validate on; none: it validates on what it trains on.
    work : its own folder.  values, recipe, epochs, augmentations : of the training (`TrainingPlan`).
    base : model to go on from.  settings : `--set` words of the segmentation that is scored.
    user : of the masks.  digest : of all that decides the result.
    """

    name: str
    config: str
    labels: tuple[str, ...]
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    work: str
    recipe: str
    values: Mapping[str, Any]
    validation: tuple[str, ...] = ()
    base: str | None = None
    epochs: int | None = None
    augmentations: str | None = None
    settings: tuple[str, ...] = ()
    user: str = "cross-validation"
    device: str | None = None
    digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LearningJob:
        lists = {name: tuple(values[name]) for name in ("labels", "training", "validation", "held_out", "settings")}
        given = dict(values["values"])
        lists_of = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "values": {**given, **lists_of}})

    @property
    def model(self) -> str:
        return str(Path(self.work) / "model.safetensors")

    def with_digest(self, project: Project) -> LearningJob:
        """ProjectError, before anything is begun, for a run without a tomogram or labels."""
        inputs = {}
        for run in (*self.training, *self.held_out):
            layers = layers_of(project, run, self.labels)
            if not layers:
                raise ProjectError(f"{run} has none of {', '.join(self.labels)}", "check the URIs, spacing included")
            tomogram = project.tomograms([run], None, layers[0].voxel_spacing_angstrom)[0]
            inputs[run] = [project.identity(tomogram), *map(project.identity, layers)]
        told = {name: value for name, value in self.as_dict().items() if name not in _WHERE}
        told["values"] = {name: value for name, value in self.values.items() if name not in ("threads", "workers")}
        base = None if self.base is None else model_sha256(self.base)
        digest = digest_of("learning", DATA_VERSION, told, base, inputs)
        return LearningJob.from_dict({**self.as_dict(), "digest": digest})

    def result(self) -> dict[str, Any] | None:
        """What an earlier call has left, if it was this very job."""
        try:
            told = json.loads((Path(self.work) / "scores.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return dict(told) if told.get("digest") == self.digest and Path(self.model).exists() else None


def work_job(values: Mapping[str, Any]) -> dict[str, Any]:
    """Train, segment the held-out tomograms, score them; returns `{"name", "digest", "model_sha256", "rows", ...}`.

    Raises what the training raises, and InputError where a held-out tomogram could not be segmented.
    """
    job = LearningJob.from_dict(values)
    known = job.result()
    if known is not None:
        return known
    Path(job.work).mkdir(parents=True, exist_ok=True)
    train(job)
    rows = score(job)
    result = {
        "name": job.name,
        "digest": job.digest,
        "model": job.model,
        "model_sha256": model_sha256(job.model),
        "base_sha256": None if job.base is None else model_sha256(job.base),
        "training": read_header(job.model)["trained_on"]["volumes"],
        "rows": rows,
    }
    Files(job.work).write("scores.json", json.dumps(result, indent=1, sort_keys=True).encode())
    return result


def train(job: LearningJob) -> str:
    """The one place that calls the training; what it has done before it goes on from."""
    validation = job.validation or job.training
    # A worker is told its share of the cores, which is no part of the recipe.
    share = int(os.environ.get("OMP_NUM_THREADS") or 0)
    values = {**({"threads": share} if share else {}), **job.values}
    return train_segmentation(
        job.model,
        str(Path(job.work) / f"training-{job.digest[:8]}"),
        TrainingPlan(job.recipe, values, job.base, job.epochs, job.augmentations),
        TrainingData(job.config, job.labels, job.training, ",".join(validation)),
        device=job.device,
        progress=lambda _step, _line: None,
    )


def score(job: LearningJob) -> list[dict[str, Any]]:
    """A row for each held-out tomogram: its mask by the new model against the labels, the ignored left out."""
    project = open_project(job.config)
    chosen = [f"segment.model={job.model}", f"output.user={job.user}"]
    settings = load_settings(None, [*job.settings, *chosen])
    made = plan(project, settings, STAGES, runs=job.held_out, stages=["segment"])
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        raise InputError(failed[0].line(), failed[0].next_step)
    rows = []
    for run in job.held_out:
        mask = project.segmentation(run, f"membrane:{job.user}/{made.sessions['segment']}")
        truth = Layers.of(project, layers_of(project, run, job.labels))
        rows.append({"run": run, **segmentation_scores(*segmentation_counts(Layers.of(project, [mask]), truth))})
    return rows


def table_of(results: Sequence[Mapping[str, Any]], group: str) -> list[dict[str, Any]]:
    """One table of several jobs' rows; `group` is the name of the column that says of which."""
    return [
        {group: result["name"], **row, "trained_on": len(result["training"]), "model_sha256": result["model_sha256"]}
        for result in results
        for row in result["rows"]
    ]

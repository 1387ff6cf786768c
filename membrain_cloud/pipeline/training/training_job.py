"""One training with scores on held-out tomograms: a fold of a cross-validation, or one of several rounds.

A job is JSON-serialisable and runs on any worker that reaches the project and the folder `work`. It leaves
`model.safetensors`, the state of the training, and last `scores.json`, which marks it as finished. The masks of the
held-out tomograms become annotations in the project, with receipts that name the model.
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
from membrain_cloud.pipeline.training.labelled_volumes import find_layers
from membrain_cloud.pipeline.training.segmentation import TrainingPlan, train_segmentation
from membrain_cloud.pipeline.training.segmentation_data import TrainingData
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.open import open_project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

DATA_VERSION = 2
# Fields that do not affect the result; of the base, its content is in the digest.
_NOT_IN_DIGEST = ("config", "work", "device", "digest", "base")
# Values of the training that do not affect its result.
_SPEED = ("threads", "workers")


@dataclass(frozen=True)
class TrainingJob:
    """A training and the tomograms that its model is scored on. The names of the fields enter its digest.

    Attributes
    ----------
    name : str
        Name of the fold or round.
    config : str
        Config of the project.
    labels : tuple of str
        URIs of the labels, merged in this order.
    training, held_out : tuple of str
        Runs to train on, and runs to score on.
    work : str
        Folder of this job.
    recipe, values, epochs, augmentations
        As in `TrainingPlan`.
    validation : tuple of str
        Runs of `training` that are used for validation only. Empty: validation uses the runs that are trained on.
    base : str or None
        Model to fine-tune. Default: random weights.
    settings : tuple of str
        Settings (`key=value`) of the segmentation that is scored.
    user : str
        User of the masks in the project.
    device : str or None
        Name of the torch device. Default: CUDA if there is any.
    digest : str
        Digest of everything that affects the result (`with_digest`).
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
        """Return the fields as JSON-serialisable values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingJob:
        """Return the job whose `as_dict` this is, also after a round trip through JSON.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned.
        """
        lists = {name: tuple(values[name]) for name in ("labels", "training", "validation", "held_out", "settings")}
        settings = dict(values["values"])
        tuples = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "values": {**settings, **tuples}})

    @property
    def model(self) -> str:
        """Return the path of the model."""
        return str(Path(self.work) / "model.safetensors")

    def with_digest(self, project: Project) -> TrainingJob:
        """Return this job with the digest of everything that affects its result.

        Parameters
        ----------
        project : Project
            The project of `config`.

        Returns
        -------
        job : TrainingJob
            A copy.

        Raises
        ------
        ProjectError
            If a run lacks a tomogram or labels.
        """
        inputs = {}
        for run in (*self.training, *self.held_out):
            layers = find_layers(project, run, self.labels)
            if not layers:
                raise ProjectError(f"{run} has none of {', '.join(self.labels)}", "check the URIs, spacing included")
            tomogram = project.tomograms([run], None, layers[0].voxel_spacing_angstrom)[0]
            inputs[run] = [project.identity(tomogram), *map(project.identity, layers)]
        fields = {name: value for name, value in self.as_dict().items() if name not in _NOT_IN_DIGEST}
        fields["values"] = {name: value for name, value in self.values.items() if name not in _SPEED}
        base = None if self.base is None else model_sha256(self.base)
        digest = digest_of("learning", DATA_VERSION, fields, base, inputs)
        return TrainingJob.from_dict({**self.as_dict(), "digest": digest})

    def load_result(self) -> dict[str, Any] | None:
        """Return the result of a finished job with the same digest, or None."""
        try:
            result = json.loads((Path(self.work) / "scores.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return dict(result) if result.get("digest") == self.digest and Path(self.model).exists() else None


def run_training_job(values: Mapping[str, Any]) -> dict[str, Any]:
    """Train, segment the held-out tomograms and score them, unless the job is finished.

    Parameters
    ----------
    values : mapping
        A `TrainingJob` as a dictionary.

    Returns
    -------
    result : dict
        `name`, `digest`, `model`, `model_sha256`, `base_sha256`, `training` (names of the volumes) and `rows`.

    Raises
    ------
    InputError
        If a held-out tomogram could not be segmented. What the training raises is passed on.
    """
    job = TrainingJob.from_dict(values)
    finished = job.load_result()
    if finished is not None:
        return finished
    Path(job.work).mkdir(parents=True, exist_ok=True)
    train_model(job)
    rows = score_model(job)
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


def train_model(job: TrainingJob) -> str:
    """Train the model of a job, continuing from an earlier attempt.

    Parameters
    ----------
    job : TrainingJob
        The job.

    Returns
    -------
    model : str
        Path of the model.
    """
    validation = job.validation or job.training
    # The worker's share of the cores, which does not affect results.
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


def score_model(job: TrainingJob) -> list[dict[str, Any]]:
    """Segment the held-out tomograms with the job's model and compare the masks with the labels.

    Parameters
    ----------
    job : TrainingJob
        The job; its model exists.

    Returns
    -------
    rows : list of dict
        Scores of each tomogram (`segmentation_scores`); ignored voxels do not count.

    Raises
    ------
    InputError
        If a tomogram could not be segmented.
    """
    project = open_project(job.config)
    settings = load_settings(None, [*job.settings, f"segment.model={job.model}", f"output.user={job.user}"])
    tasks = plan(project, settings, STAGES, runs=job.held_out, stages=["segment"])
    outcomes = execute_plan(project, settings, tasks, InProcessRunner(), STAGES)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        raise InputError(failed[0].line(), failed[0].next_step)
    rows = []
    for run in job.held_out:
        mask = project.segmentation(run, f"membrane:{job.user}/{tasks.sessions['segment']}")
        truth = Layers.of(project, find_layers(project, run, job.labels))
        rows.append({"run": run, **segmentation_scores(*segmentation_counts(Layers.of(project, [mask]), truth))})
    return rows


def score_table(results: Sequence[Mapping[str, Any]], group: str) -> list[dict[str, Any]]:
    """Join the scores of several jobs in one table.

    Parameters
    ----------
    results : sequence of mappings
        What `run_training_job` returned.
    group : str
        Name of the column with the jobs' names.

    Returns
    -------
    rows : list of dict
        The jobs' rows, with `trained_on`, the number of volumes, and `model_sha256`.
    """
    return [
        {group: result["name"], **row, "trained_on": len(result["training"]), "model_sha256": result["model_sha256"]}
        for result in results
        for row in result["rows"]
    ]

"""Training of the segmentation network, from any source of patches to a model file.

Patch number n depends on the seed and on n alone, and the checkpoint holds weights, averaged weights, optimiser, step
and random state. A training that is killed and started again is therefore equal to one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.training.checkpoint import Checkpoint
from membrain_cloud.training.curve import CurveFile
from membrain_cloud.training.resumable import ResumableTraining, Row, RunState, Schedule, Score, Selection, Weights
from membrain_cloud.training.segmentation.batches import batches, training_batches
from membrain_cloud.training.segmentation.trainer import Batch, Trainer
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.labelled_patches import PatchSource

COLUMNS = ("step", "loss", "validation_dice", "learning_rate")
# A training that is killed repeats the work of this many seconds at most.
_SAVE_SECONDS = 300.0
# Times in a training at which predictions are passed to `picture`.
_FIGURES = 4
# Validation patches must differ from the training patches, whatever the seed.
_VALIDATION_SEED = 7919
# Steps between two reports of the loss: reading it makes the host wait for the GPU.
_REPORT_EVERY = 25

Progress = Callable[[int, str], None]
Picture = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class SegmentationData:
    """Data of a training, and its description.

    Attributes
    ----------
    training, validation : PatchSource
        Patches to train on, and patches to validate on.
    facts : dict
        Entries of the model's header, among them `voxel_spacing_angstrom` and `trained_on`.
    """

    training: PatchSource
    validation: PatchSource
    facts: dict[str, Any]


@dataclass(frozen=True)
class Pretrained:
    """Trained networks that a training uses.

    Attributes
    ----------
    start : nn.Module or None
        Network of the settings' architecture whose weights are fine-tuned. Default: random weights.
    teacher : nn.Module or None
        Network whose predictions are learnt in addition to the labels (see `Trainer`). Its digest belongs in the facts.
    """

    start: nn.Module | None = None
    teacher: nn.Module | None = None


def train_segmenter(
    output: Path,
    work: Path,
    settings: SegmentationTraining,
    data: SegmentationData,
    *,
    device: str,
    progress: Progress,
    pretrained: Pretrained = Pretrained(),
    picture: Picture | None = None,
) -> Path:
    """Train a segmentation network and write it to a model file.

    Parameters
    ----------
    output : Path
        The safetensors file to write.
    work : Path
        Folder of `checkpoint.pt` and `log.csv`. A second call with the same arguments continues from there.
    settings : SegmentationTraining
        Settings of the training.
    data : SegmentationData
        Patches, and entries of the model's header.
    device : str
        Name of the torch device, such as "cpu" or "cuda".
    progress : callable
        Called with the number of steps done and a line of text.
    pretrained : Pretrained
        Network to fine-tune, and teacher. Default: neither.
    picture : callable or None
        Called a few times in a training with the number of steps done, and images, labels and logits (B, 1, w, w, w) of
        one validation batch, on the CPU.

    Returns
    -------
    output : Path
        The file.

    Raises
    ------
    UsageError
        If `work` holds the checkpoint of another training.
    MembrainCloudError
        If the loss is infinite or NaN.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    where = torch.device(device)
    learner = _SegmentationLearner(Trainer(settings, where, pretrained.start, pretrained.teacher))
    training = ResumableTraining(
        learner,
        Schedule(settings.steps, settings.validate_every, save_seconds=_SAVE_SECONDS, require_finite=True),
        Selection(settings.patience > 0, settings.patience, settings.tolerance),
        Checkpoint(work / "checkpoint.pt", {"digest": _digest(settings, data, device)}),
        CurveFile(
            work / "log.csv",
            COLUMNS,
            {"loss": ".5f", "validation_dice": ".5f", "learning_rate": ".3g"},
            line_end="\r\n",
        ),
    )
    training.resume()
    if not training.complete:
        seed = settings.seed + _VALIDATION_SEED
        learner.validation = list(batches(data.validation, settings, seed, 0, settings.validation_patches, where))
        if settings.tolerance and training.progress.best_weights is None:
            (dice,) = training.begin(in_curve=False)
            progress(0, f"validation Dice {dice:.3f} before the first step")
        _train(training, learner, data.training, progress, picture, _TensorBoard(work / "tensorboard"))
    state = training.finish()
    header = {
        **data.facts,
        "window": settings.window,
        "training": settings.digest_settings(),
        "validation_dice": _dice(state),
        "package_version": __version__,
    }
    save_segmenter(output, learner.trainer.average, settings.architecture, header)
    return output


def _train(
    training: ResumableTraining[Batch],
    learner: _SegmentationLearner,
    source: PatchSource,
    progress: Progress,
    picture: Picture | None,
    board: _TensorBoard,
) -> None:
    """Run the loop, and report on it."""
    trainer, settings = learner.trainer, learner.trainer.settings
    every = settings.validate_every
    shown = {-(-settings.steps * part // (_FIGURES * every)) for part in range(1, _FIGURES + 1)}

    def on_unit() -> None:
        if trainer.step % _REPORT_EVERY == 0:
            progress(trainer.step, f"loss {training.mean_loss:.3f}")

    def on_row(row: Row) -> None:
        step = trainer.step
        board.add(row)
        progress(step, f"loss {row['loss']:.3f}, validation Dice {row['validation_dice']:.3f}{_why_stopped(training)}")
        if picture is not None and (step == settings.steps or step // every in shown):
            images, labels = learner.validation[0]
            picture(step, images.cpu(), labels.cpu(), trainer.predict(images).cpu())

    training.run(
        training_batches(source, settings, trainer.step, trainer.device),
        on_unit=on_unit,
        on_row=on_row,
    )


def _digest(settings: SegmentationTraining, data: SegmentationData, device: str) -> str:
    parts = [
        settings.digest_settings(),
        data.training.identity,
        data.validation.identity,
        data.facts,
        torch.device(device).type,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _dice(state: RunState) -> float:
    return 0.0 if state.best is None else state.best[0]


def _why_stopped(training: ResumableTraining[Batch]) -> str:
    """Return the end of the line on a validation: empty unless it stopped the training."""
    state = training.progress
    if not state.stopped:
        return ""
    if training.selection.degraded((state.rows[-1]["validation_dice"],), state):
        return f": stopped, it was {state.baseline:.3f} before the first step"
    return f": stopped, {_dice(state):.3f} was the best for {state.stale} validations"


class _SegmentationLearner:
    """A trainer driven by the resumable loop. A unit is a batch; Dice ranks the averaged weights."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.validation: list[Batch] = []

    @property
    def done(self) -> int:
        return self.trainer.step

    def train(self, unit: Batch) -> Tensor:
        return self.trainer.train(*unit)

    def validate(self) -> Row:
        return {"validation_dice": self.trainer.validate(self.validation)}

    def score(self, scores: Row) -> Score:
        return (scores["validation_dice"],)

    def row(self, loss: float | None, scores: Row) -> Row:
        return {"step": self.done, "loss": loss, **scores, "learning_rate": self.trainer.settings.rate(self.done - 1)}

    def weights(self) -> Weights:
        return dict(self.trainer.average.state_dict())

    def load_weights(self, weights: Weights) -> None:
        self.trainer.average.load_state_dict(weights)

    def state(self, run: RunState) -> dict[str, Any]:
        return {
            **self.trainer.state(),
            "rows": [[row[name] for name in COLUMNS] for row in run.rows],
            "loss_sum": run.loss_sum,
            "loss_count": run.loss_count,
            "best": _dice(run),
            "baseline": run.baseline,
            "stale": run.stale,
            "stopped": run.stopped,
            "kept": run.best_weights,
        }

    def load(self, state: dict[str, Any]) -> RunState:
        self.trainer.load(state)
        validated = bool(state["rows"]) or state["kept"] is not None
        return RunState(
            rows=[dict(zip(COLUMNS, row, strict=True)) for row in state["rows"]],
            loss_sum=state["loss_sum"],
            loss_count=state["loss_count"],
            best=(state["best"],) if validated else None,
            best_weights=state["kept"],
            baseline=state["baseline"],
            stale=state["stale"],
            stopped=state["stopped"],
        )


class _TensorBoard:
    """Writer of the curve for TensorBoard; it does nothing if that is not installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def add(self, row: Row) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = cast("Any", SummaryWriter)(str(self.folder), purge_step=row["step"])
        for name in COLUMNS[1:]:
            self._writer.add_scalar(name, row[name], row["step"])
        self._writer.flush()

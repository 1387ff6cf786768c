"""The training loop of the segmentation network: resumable to the bit, from wherever patches come.

Patch number n is a function of the seed and of n alone (`sources.py`), and a checkpoint holds weights, averaged
weights, optimiser, step, random state, the curve so far and the best so far. So a run that is killed anywhere and
resumed is the run that was never killed.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from membrain_cloud import __version__
from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.training.checkpoint import load_state, save_state, write_whole
from membrain_cloud.training.segmentation.batches import batches, training_batches
from membrain_cloud.training.segmentation.simulated_patches import SpecimenPatches, make_pool, voxel_spacing
from membrain_cloud.training.segmentation.trainer import Batch, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.labelled_patches import PatchSource

COLUMNS = ("step", "loss", "validation_dice", "learning_rate")
# A training that is killed loses this many seconds at most.
_SAVE_SECONDS = 300.0
_FIGURES = 4
# Validation patches must not be those of the training, whatever the seed.
_VALIDATION_SEED = 7919
# Voxels from which on `SegmentationTraining.coarse` draws a specimen oftener.
_COARSE_ANGSTROM = 11.0
# A GPU is not made to wait for the host at every step.
_LOOK_EVERY = 25

Progress = Callable[[int, str], None]
Picture = Callable[[int, Tensor, Tensor, Tensor], None]
Row = list[float]


def simulated_sources(
    work: Path, settings: SegmentationTraining, progress: Progress
) -> tuple[SpecimenPatches, SpecimenPatches]:
    """Specimens to train on and specimens held back, made below `work` where they are not there yet."""
    pool = make_pool(
        work / "pool",
        count=settings.specimens,
        edge=settings.specimen_edge,
        seed=settings.seed,
        processes=settings.threads,
        done=lambda n: progress(0, f"specimens {n}/{settings.specimens}"),
    )
    held_back, training = pool[: settings.validation_specimens], pool[settings.validation_specimens :]
    if settings.coarse > 1:
        training += (settings.coarse - 1) * [path for path in training if voxel_spacing(path) >= _COARSE_ANGSTROM]
    return (
        SpecimenPatches(tuple(training), settings.window, settings.augmentations),
        SpecimenPatches(tuple(held_back), settings.window, settings.augmentations),
    )


def train_segmenter(
    output: Path,
    work: Path,
    settings: SegmentationTraining,
    sources: tuple[PatchSource, PatchSource],
    facts: dict[str, Any],
    *,
    device: str,
    progress: Progress,
    start: nn.Module | None = None,
    teacher: nn.Module | None = None,
    picture: Picture | None = None,
) -> Path:
    """Train and write a model.

    Parameters
    ----------
    output : the safetensors file to write.
    work : folder of the checkpoint and `log.csv`; a second call goes on from there.
    sources : patches to train on, and to validate on.
    facts : for the model's header: `voxel_spacing_angstrom`, `trained_on`, and what else there is to say.
    progress : told (steps done, a line to show).
    start : network of the settings' architecture to go on from.
    teacher : network whose answers are learnt beside the labels (`Trainer`); `facts` say which.
    picture : told (steps done, images, labels, logits) of a few validation patches, a few times a run.

    Returns
    -------
    output.

    Raises UsageError where `work` holds another training's state, MembrainCloudError where the loss is no number.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    work.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    run = _Run(Trainer(settings, where, start, teacher), work, _digest(settings, sources, facts, device))
    run.resume()
    validation_seed = settings.seed + _VALIDATION_SEED
    validation = list(batches(sources[1], settings, validation_seed, 0, settings.validation_patches, where))
    if settings.tolerance and run.kept is None:
        run.begin_with(run.trainer.validate(validation))
        progress(0, f"validation Dice {run.baseline:.3f} before the first step")
    if run.trainer.step < settings.steps and not run.stopped:
        _go_on(run, sources[0], validation, progress, picture)
    network = run.kept_network()
    header = {
        **facts,
        "window": settings.window,
        "training": settings.digest_settings(),
        "validation_dice": run.best,
        "package_version": __version__,
    }
    save_segmenter(output, network, settings.architecture, header)
    return output


def _go_on(
    run: _Run, source: PatchSource, validation: list[Batch], progress: Progress, picture: Picture | None
) -> None:
    settings, trainer = run.trainer.settings, run.trainer
    shown = {-(-settings.steps * part // (_FIGURES * settings.validate_every)) for part in range(1, _FIGURES + 1)}
    saved = time.monotonic()
    for image, label in training_batches(source, settings, trainer.step, trainer.device):
        run.add(trainer.train(image, label))
        step = trainer.step
        if step % _LOOK_EVERY == 0:
            progress(step, f"loss {run.mean_loss:.3f}")
        if step % settings.validate_every == 0 or step == settings.steps:
            dice = trainer.validate(validation)
            run.validated(dice)
            progress(step, f"loss {run.rows[-1][1]:.3f}, validation Dice {dice:.3f}{run.why_stopped}")
            if picture is not None and (step == settings.steps or step // settings.validate_every in shown):
                images, labels = validation[0]
                picture(step, images.cpu(), labels.cpu(), trainer.predict(images).cpu())
        elif time.monotonic() - saved > _SAVE_SECONDS:
            run.save()
        else:
            continue
        saved = time.monotonic()
        if run.stopped:
            return


def _digest(
    settings: SegmentationTraining, sources: tuple[PatchSource, PatchSource], facts: dict[str, Any], device: str
) -> str:
    parts = [settings.digest_settings(), *(source.identity for source in sources), facts, torch.device(device).type]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class _Run:
    """A trainer with its curve, its best weights, and the files that hold them."""

    def __init__(self, trainer: Trainer, work: Path, digest: str) -> None:
        self.trainer, self.work, self.digest = trainer, work, digest
        self.checkpoint = work / "checkpoint.pt"
        self.rows: list[Row] = []
        self.loss_sum, self.loss_count, self._pending = 0.0, 0, list[Tensor]()
        self.best, self.baseline, self.stale, self.stopped = 0.0, 0.0, 0, False
        self.kept: dict[str, Tensor] | None = None
        self._board: Any = None

    @property
    def mean_loss(self) -> float:
        """Over the steps since the last validation. MembrainCloudError where it is no number any more."""
        self._settle()
        return self.loss_sum / max(self.loss_count, 1)

    @property
    def why_stopped(self) -> str:
        if not self.stopped:
            return ""
        if self._degraded(self.rows[-1][2]):
            return f": stopped, it was {self.baseline:.3f} before the first step"
        return f": stopped, {self.best:.3f} was the best for {self.stale} validations"

    def add(self, loss: Tensor) -> None:
        self._pending.append(loss)
        if loss.device.type == "cpu":
            self._settle()

    def _settle(self) -> None:
        for step, loss in enumerate(self._pending, self.trainer.step - len(self._pending) + 1):
            value = float(loss)
            if not abs(value) < float("inf"):
                raise MembrainCloudError(
                    f"the loss of step {step} is {value}", "lower --learning-rate, or look at the data"
                )
            self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        self._pending.clear()

    def begin_with(self, dice: float) -> None:
        """Note what the weights are worth before the first step; they are kept until there are others as good."""
        self.baseline = dice
        self._keep(dice)
        self.save()

    def validated(self, dice: float) -> None:
        """Note a validation, decide whether to go on and which weights to keep, and save."""
        settings = self.trainer.settings
        loss, rate = self.mean_loss, settings.rate(self.trainer.step - 1)
        self.rows.append([self.trainer.step, loss, dice, rate])
        self.loss_sum, self.loss_count = 0.0, 0
        better = dice > self.best or (self.kept is None and len(self.rows) == 1)
        self.stale = 0 if better else self.stale + 1
        self.stopped = self._degraded(dice) or 0 < settings.patience <= self.stale
        if not self._degraded(dice) and (better or not settings.patience):
            self._keep(dice)
        self.save()
        self._write_curve()
        self._show_on_board()

    def _degraded(self, dice: float) -> bool:
        return dice < (1 - self.trainer.settings.tolerance) * self.baseline

    def _keep(self, dice: float) -> None:
        self.best = dice
        if self.trainer.settings.patience or self.trainer.settings.tolerance:
            self.kept = {name: value.clone() for name, value in self.trainer.average.state_dict().items()}

    def kept_network(self) -> nn.Module:
        """The averaged weights, as they were when they were best where that was asked for."""
        if self.kept is not None:
            self.trainer.average.load_state_dict(self.kept)
        return self.trainer.average

    def save(self) -> None:
        self._settle()
        state = {name: getattr(self, name) for name in _KEPT_FACTS}
        save_state(self.checkpoint, self.digest, {**self.trainer.state(), **state})

    def resume(self) -> None:
        state = load_state(self.checkpoint, self.digest)
        if state is None:
            return
        self.trainer.load(state)
        for name in _KEPT_FACTS:
            setattr(self, name, state[name])
        self._write_curve()

    def _write_curve(self) -> None:
        """Whole, from the checkpoint's rows: a kill between the two leaves no gap in it."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(
            [int(step), f"{loss:.5f}", f"{dice:.5f}", f"{rate:.3g}"] for step, loss, dice, rate in self.rows
        )
        write_whole(self.work / "log.csv", lambda path: path.write_text(text.getvalue(), encoding="utf-8"))

    def _show_on_board(self) -> None:
        """To TensorBoard, where it is installed."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            maker = cast("Any", SummaryWriter)
            self._board = maker(str(self.work / "tensorboard"), purge_step=int(self.rows[-1][0]))
        for name, value in zip(COLUMNS[1:], self.rows[-1][1:], strict=True):
            self._board.add_scalar(name, value, int(self.rows[-1][0]))
        self._board.flush()


_KEPT_FACTS = ("rows", "loss_sum", "loss_count", "best", "baseline", "stale", "stopped", "kept")

"""The training loop of all networks: validation, best weights, learning curve, early stopping, exact resumption.

A training is a sequence of units, optimiser steps or epochs, whose random numbers depend on the seed and the unit's
number alone. The checkpoint holds everything else that later units depend on. A training that is killed at any instant
and started again therefore ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from torch import Tensor

from membrain_cloud.errors import MembrainCloudError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from membrain_cloud.training.checkpoint import Checkpoint
    from membrain_cloud.training.curve import CurveFile

Row = dict[str, Any]
"""A row of the learning curve, or the scores of one validation: numbers or None by column."""

Score = tuple[float, ...]
"""Rank of validated weights: greater is better. The first number is compared with that of the initial weights."""

Weights = dict[str, Tensor]

Unit = TypeVar("Unit")
Unit_contra = TypeVar("Unit_contra", contravariant=True)


@dataclass
class RunState:
    """Progress of a training, apart from its network and optimiser.

    Attributes
    ----------
    rows : list of Row
        The learning curve so far.
    loss_sum, loss_count : float, int
        Sum and number of the losses since the last row.
    best : Score or None
        Score of the weights that were kept last; None before the first validation.
    best_at : int
        Number of units done at that validation.
    best_weights : Weights or None
        A copy of these weights; None if the final weights are returned anyway.
    baseline : float
        Score of the initial weights; 0 if they were not validated.
    stale : int
        Validations since the score last improved.
    stopped : bool
        Whether the training was stopped early.
    """

    rows: list[Row] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0
    best: Score | None = None
    best_at: int = 0
    best_weights: Weights | None = None
    baseline: float = 0.0
    stale: int = 0
    stopped: bool = False


class Learner(Protocol[Unit_contra]):
    """A network in training, as the loop drives it, and the layout of its checkpoint."""

    @property
    def done(self) -> int:
        """Return the number of units trained so far."""

    def train(self, unit: Unit_contra) -> Tensor | float:
        """Train on one unit and return its loss; a tensor may still be computed on a GPU.

        Parameters
        ----------
        unit : Unit
            What one step of training takes, such as a batch.
        """

    def validate(self) -> Row:
        """Return the scores of the current weights."""

    def score(self, scores: Row) -> Score:
        """Return the rank of weights with these scores.

        Parameters
        ----------
        scores : Row
            What `validate` returned.
        """

    def row(self, loss: float | None, scores: Row) -> Row:
        """Return a row of the curve.

        Parameters
        ----------
        loss : float or None
            Mean loss since the last row; None for the initial weights.
        scores : Row
            Scores of the weights; empty without validation.

        Returns
        -------
        row : Row
            Numbers by column.
        """

    def weights(self) -> Weights:
        """Return the weights that are validated and shipped."""

    def load_weights(self, weights: Weights) -> None:
        """Replace these weights.

        Parameters
        ----------
        weights : Weights
            What `weights` returned.
        """

    def state(self, run: RunState) -> dict[str, Any]:
        """Return the content of the checkpoint.

        Parameters
        ----------
        run : RunState
            Progress of the training.

        Returns
        -------
        state : dict
            Network, optimiser and progress, as tensors and plain values.
        """

    def load(self, state: dict[str, Any]) -> RunState:
        """Restore network and optimiser.

        Parameters
        ----------
        state : dict
            Content of a checkpoint, as `state` returned it.

        Returns
        -------
        run : RunState
            Progress of the training.
        """


@dataclass(frozen=True)
class Schedule:
    """Length of a training and times of its validations.

    Attributes
    ----------
    total : int
        Number of units.
    validate_every : int
        Units between validations; the last unit is always validated. 0: no validation.
    every_row : bool
        Whether the curve gets a row after every unit. Default: only after validations.
    save_seconds : float
        Longest time between two checkpoints, in seconds, if no row is due earlier. Default: 300.
    require_finite : bool
        Whether a loss that is infinite or NaN is an error. Default: False.
    """

    total: int
    validate_every: int
    every_row: bool = False
    save_seconds: float = 300.0
    require_finite: bool = False

    def validation_due(self, done: int) -> bool:
        """Return whether the weights are validated after `done` units.

        Parameters
        ----------
        done : int
            Number of units trained so far.
        """
        return bool(self.validate_every) and (done == self.total or done % self.validate_every == 0)

    def row_due(self, done: int) -> bool:
        """Return whether the curve gets a row after `done` units.

        Parameters
        ----------
        done : int
            Number of units trained so far.
        """
        return self.every_row or self.validation_due(done)


@dataclass(frozen=True)
class Selection:
    """Rule for the weights that are returned, and for stopping early.

    Attributes
    ----------
    keep_best : bool
        Whether the best weights are kept; otherwise the last ones that `tolerance` accepts.
    patience : int
        Validations without a better score after which training stops. Default 0: never.
    tolerance : float
        Largest accepted drop of the score below that of the initial weights, as a fraction of theirs; after a larger
        one training stops. Default 0: not checked, and the initial weights have no baseline.
    """

    keep_best: bool
    patience: int = 0
    tolerance: float = 0.0

    def degraded(self, score: Score, run: RunState) -> bool:
        """Return whether a score has fallen below the tolerance.

        Parameters
        ----------
        score : Score
            Score of the current weights.
        run : RunState
            Progress, with the baseline.

        Returns
        -------
        degraded : bool
            False if there is no baseline.
        """
        return score[0] < (1 - self.tolerance) * run.baseline

    def update(self, run: RunState, score: Score) -> bool:
        """Count a validation.

        Parameters
        ----------
        run : RunState
            Its `stale` and `stopped` are updated.
        score : Score
            Score of the validated weights.

        Returns
        -------
        keep : bool
            Whether these weights replace those kept so far.
        """
        better = run.best is None or score > run.best
        degraded = self.degraded(score, run)
        run.stale = 0 if better else run.stale + 1
        run.stopped = degraded or 0 < self.patience <= run.stale
        return not degraded and (better or not self.keep_best)


class ResumableTraining(Generic[Unit]):
    """One training: the loop, its progress, and the files that hold both.

    Parameters
    ----------
    learner : Learner
        Network and optimiser.
    schedule : Schedule
        Number of units, and when to validate and save.
    selection : Selection
        Which weights are returned, and when to stop early.
    checkpoint : Checkpoint or None
        File of the state. None: nothing is written, and nothing can be resumed.
    curve : CurveFile or None
        File of the learning curve.
    """

    def __init__(
        self,
        learner: Learner[Unit],
        schedule: Schedule,
        selection: Selection,
        checkpoint: Checkpoint | None,
        curve: CurveFile | None,
    ) -> None:
        self.learner, self.schedule, self.selection = learner, schedule, selection
        self.checkpoint, self.curve = checkpoint, curve
        self.progress = RunState()
        self._pending: list[Tensor | float] = []

    @property
    def complete(self) -> bool:
        """Return whether no unit is left to train."""
        return self.progress.stopped or self.learner.done >= self.schedule.total

    @property
    def mean_loss(self) -> float:
        """Return the mean loss of the units since the last row."""
        self._collect_losses()
        return self.progress.loss_sum / max(self.progress.loss_count, 1)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one.

        Raises
        ------
        UsageError
            If the checkpoint belongs to a training with other settings.
        """
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is not None:
            self.progress = self.learner.load(state)
            self._write_curve()  # a kill between checkpoint and curve leaves the curve one row behind

    def begin(self, *, in_curve: bool) -> Score:
        """Validate the initial weights. They are kept until others are better, and are the baseline of the tolerance.

        Parameters
        ----------
        in_curve : bool
            Whether the curve gets a row for them.

        Returns
        -------
        score : Score
            Their score.
        """
        scores = self.learner.validate()
        score = self.learner.score(scores)
        if in_curve:
            self.progress.rows.append(self.learner.row(None, scores))
        self.progress.baseline = score[0] if self.selection.tolerance else 0.0
        self._keep(score)
        self.save()
        self._write_curve()
        return score

    def run(
        self, units: Iterable[Unit], *, on_unit: Callable[[], None] | None = None, on_row: Callable[[Row], None]
    ) -> None:
        """Train to the end, or until the selection stops early.

        Parameters
        ----------
        units : iterable
            The units from number `learner.done` on. It is not touched if the training is complete.
        on_unit : callable or None
            Called after every unit, before it is validated.
        on_row : callable
            Called with every new row, after it was saved.

        Raises
        ------
        MembrainCloudError
            If the schedule requires finite losses and one is not.
        """
        if self.complete:
            return
        saved = time.monotonic()
        for unit in units:
            self._add_loss(self.learner.train(unit))
            if on_unit is not None:
                on_unit()
            if self.schedule.row_due(self.learner.done):
                on_row(self._add_row())
            elif time.monotonic() - saved > self.schedule.save_seconds:
                self.save()
            else:
                continue
            saved = time.monotonic()
            if self.progress.stopped:
                return

    def finish(self) -> RunState:
        """Give the learner the weights that the selection kept, and return the progress."""
        self.learner.load_weights(self.progress.best_weights or self.learner.weights())
        return self.progress

    def save(self) -> None:
        """Write the checkpoint."""
        self._collect_losses()
        if self.checkpoint is not None:
            self.checkpoint.save(self.learner.state(self.progress))

    def _write_curve(self) -> None:
        if self.curve is not None and self.progress.rows:
            self.curve.write(self.progress.rows)

    def _add_row(self) -> Row:
        loss, progress = self.mean_loss, self.progress
        scores = self.learner.validate() if self.schedule.validation_due(self.learner.done) else {}
        row = self.learner.row(loss, scores)
        progress.rows.append(row)
        progress.loss_sum, progress.loss_count = 0.0, 0
        if scores:
            score = self.learner.score(scores)
            if self.selection.update(progress, score):
                self._keep(score)
        self.save()
        self._write_curve()  # after the checkpoint, from which it can be written again
        return row

    def _keep(self, score: Score) -> None:
        self.progress.best, self.progress.best_at = score, self.learner.done
        if self.selection.keep_best or self.selection.tolerance:
            self.progress.best_weights = {
                name: value.detach().clone() for name, value in self.learner.weights().items()
            }

    def _add_loss(self, loss: Tensor | float) -> None:
        self._pending.append(loss)
        if not isinstance(loss, Tensor) or loss.device.type == "cpu":
            self._collect_losses()

    def _collect_losses(self) -> None:
        """Add pending losses to the sum. This waits for a GPU, so it is not done after every unit."""
        for number, loss in enumerate(self._pending, self.learner.done - len(self._pending) + 1):
            value = float(loss)
            if self.schedule.require_finite and not abs(value) < float("inf"):
                raise MembrainCloudError(
                    f"the loss of step {number} is {value}", "lower the setting learning_rate, or check the data"
                )
            self.progress.loss_sum += value
            self.progress.loss_count += 1
        self._pending.clear()

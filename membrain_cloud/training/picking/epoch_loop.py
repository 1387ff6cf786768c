"""The training loop of the pickers: epochs of Adam, validation, and the weights that validate best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from membrain_cloud.training.checkpoint import Checkpoint
from membrain_cloud.training.curve import CurveFile
from membrain_cloud.training.resumable import ResumableTraining, Row, RunState, Schedule, Score, Selection, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    TrainEpoch = Callable[[torch.optim.Optimizer, int], float]


@dataclass(frozen=True)
class EpochPlan:
    """Length and files of a training by epochs.

    Attributes
    ----------
    epochs : int
        Number of epochs.
    learning_rate : float
        Initial learning rate of Adam; epoch e has this times (1 - e / epochs)^0.9.
    validate_every : int
        Epochs between validations; the last epoch is always validated.
    settings_digest : str
        Digest of all settings that affect the weights. A checkpoint with another one is refused.
    data_digest : str
        Digest of meshes, densities and annotations. A checkpoint with another one is set aside as `*.stale.pt`.
    checkpoint : Path or None
        File of the state; the learning curve has the same name with the ending .csv. None: no file is written.
    """

    epochs: int
    learning_rate: float
    validate_every: int
    settings_digest: str
    data_digest: str
    checkpoint: Path | None


@dataclass(frozen=True)
class Anchor:
    """Weights that the trained ones are interpolated with.

    Attributes
    ----------
    weights : mapping of str to Tensor
        The weights, by the parameters' names.
    share : float
        Their fraction of the result, 0 to 1.

    References
    ----------
    Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, section 3.
    """

    weights: Mapping[str, torch.Tensor]
    share: float

    def interpolate(self, trained: Mapping[str, torch.Tensor]) -> Weights:
        """Return (1 - share) * trained + share * anchor, parameter by parameter.

        Parameters
        ----------
        trained : mapping of str to Tensor
            Trained weights by the parameters' names, of the anchor's shapes, float.

        Returns
        -------
        weights : dict of str to Tensor
            New tensors.
        """
        return {name: value.detach().lerp(self.weights[name], self.share) for name, value in trained.items()}


def run_epochs(
    network: nn.Module,
    plan: EpochPlan,
    *,
    train_epoch: TrainEpoch,
    validate: Callable[[], Row] | None,
    progress: Callable[[int, float], None],
    validate_first: bool = False,
    anchor: Anchor | None = None,
) -> RunState:
    """Train a network to the end. If it is validated, it then has the weights that validated best.

    Parameters
    ----------
    network : nn.Module
        The network, on the CPU; it ends in evaluation mode without gradients.
    plan : EpochPlan
        Number of epochs, learning rate and files.
    train_epoch : callable
        Takes the optimiser and the epoch (from 0), trains one epoch and returns the mean loss.
    validate : callable or None
        Returns scores, among them `f1` and `validation_loss`. A higher F1, rounded to 0.01, is better; among equal ones
        the smaller loss. It is called with the network in evaluation mode.
    progress : callable
        Called after each epoch with the number of epochs done and the mean loss.
    validate_first : bool
        Whether the initial weights are validated as well, as epoch 0, and kept unless others are better.
    anchor : Anchor or None
        If given, the interpolated weights are validated and returned. Training continues from the trained ones.

    Returns
    -------
    state : RunState
        The learning curve, and `best_at`, the epoch whose weights the network has.

    Raises
    ------
    UsageError
        If the checkpoint belongs to a training with other settings.
    """
    learner = _EpochLearner(network, plan, train_epoch, validate, anchor)
    training = ResumableTraining(
        learner,
        Schedule(plan.epochs, 0 if validate is None else plan.validate_every, every_row=True),
        Selection(keep_best=True),
        None
        if plan.checkpoint is None
        else Checkpoint(plan.checkpoint, {"settings_digest": plan.settings_digest}, {"data_digest": plan.data_digest}),
        None if plan.checkpoint is None else CurveFile(plan.checkpoint.with_suffix(".csv")),
    )
    training.resume()
    if validate_first and validate is not None and not training.progress.rows:
        training.begin(in_curve=True)
    training.run(range(learner.done, plan.epochs), on_row=lambda row: progress(row["epoch"], row["loss"]))
    state = training.finish()
    network.eval().requires_grad_(False)
    return state


class _EpochLearner:
    """A picker's network and Adam, driven by the resumable loop; a unit is the number of an epoch, from 0."""

    def __init__(
        self,
        network: nn.Module,
        plan: EpochPlan,
        train_epoch: TrainEpoch,
        validate: Callable[[], Row] | None,
        anchor: Anchor | None,
    ) -> None:
        self.network, self.plan, self.anchor = network, plan, anchor
        self._train_epoch, self._validate = train_epoch, validate
        self.optimiser = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
        self.done = 0

    def train(self, unit: int) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(unit)
        self.network.train()
        loss = self._train_epoch(self.optimiser, unit)
        self.done = unit + 1
        return loss

    def validate(self) -> Row:
        assert self._validate is not None
        self.network.eval()
        if self.anchor is None:
            return self._validate()
        trained = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.anchor.interpolate(trained))
        scores = self._validate()
        self.network.load_state_dict(trained)
        return scores

    def score(self, scores: Row) -> Score:
        return round(scores["f1"] or 0.0, 2), -(scores["validation_loss"] or 0.0)

    def row(self, loss: float | None, scores: Row) -> Row:
        if loss is None:
            return {"epoch": self.done, **scores}
        return {"epoch": self.done, "learning_rate": self._rate(self.done - 1), "loss": loss, **scores}

    def weights(self) -> Weights:
        weights: Weights = dict(self.network.state_dict())
        return weights if self.anchor is None else self.anchor.interpolate(weights)

    def load_weights(self, weights: Weights) -> None:
        self.network.load_state_dict(weights)

    def state(self, run: RunState) -> dict[str, Any]:
        return {
            "epochs": self.done,
            "rows": run.rows,
            "best": run.best,
            "best_epoch": run.best_at,
            "best_weights": run.best_weights,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> RunState:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["epochs"]
        return RunState(
            rows=state["rows"],
            best=state["best"],
            best_at=state["best_epoch"],
            best_weights=state["best_weights"],
        )

    def _rate(self, epoch: int) -> float:
        return float(self.plan.learning_rate * (1.0 - epoch / self.plan.epochs) ** 0.9)

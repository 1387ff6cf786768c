"""The course of a picker's training: epochs, validation after each, the best weights, a log, and a state to go on from.

The state is written after each epoch, whole, with everything that later epochs hang on. What an epoch draws is a
function of the seed and of its number alone. So a training that is killed at any instant and started again ends with
the same bytes as one left alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from membrain_cloud.errors import UsageError
from membrain_cloud.training.checkpoint import write_whole

if TYPE_CHECKING:
    from pathlib import Path

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class Course:
    """epochs, learning_rate : Adam's, x (1 - epoch/epochs)^0.9.  validate_every : so many epochs, and after the last.

    checkpoint : the file of the state; beside it, ending in .csv, lies the log. None: neither is written.
    settings_digest, data_digest : of all that decides it: settings, and meshes, densities and annotations.
    """

    epochs: int
    learning_rate: float
    validate_every: int
    settings_digest: str
    data_digest: str
    checkpoint: Path | None


@dataclass(frozen=True)
class Anchor:
    """Weights to stay near to.  share : of them in what is kept, 0 to 1."""

    weights: Mapping[str, torch.Tensor]
    share: float

    def drawn(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """(1 - share) trained + share anchor, each weight by itself."""
        return {name: value.detach().lerp(self.weights[name], self.share) for name, value in trained.items()}


@dataclass
class State:
    """What is known after some epochs: rows of the log, and the weights of the best validation so far."""

    epochs: int = 0
    rows: list[dict[str, float | None]] = field(default_factory=list)
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] | None = None


def run_epochs(
    network: nn.Module,
    course: Course,
    *,
    train_epoch: Callable[[torch.optim.Optimizer, int], float],
    validate: Callable[[], Row] | None,
    progress: Callable[[int, float], None],
    validate_first: bool = False,
    anchor: Anchor | None = None,
) -> State:
    """Train a network to the end; with validation, it then has the weights that validated best.

    train_epoch : (optimiser, epoch from 0) -> mean loss.
    validate : scores, of which `f1` and `validation_loss` decide: a higher F1 is better, and among those within 0.01
        the smaller loss. Called with the network in evaluation mode.
    validate_first : the weights at the start are validated too, as epoch 0, and stay where none are better.
    anchor : what is validated and kept lies between these weights and the trained ones; training itself goes on from
        the trained ones.
    progress : told (epochs done, mean loss) after each.

    A state of the same settings but other data (somebody edited an annotation) is set aside, as `*.stale.pt`, and
    training begins anew. Raises UsageError where the state at `checkpoint` is of other settings.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=course.learning_rate)
    state = resume(course, network, optimiser)
    if validate_first and validate is not None and not state.rows:
        network.eval()
        state.rows.append({"epoch": 0, **validate()})
        _remember(state, state.rows[0], network)
    for epoch in range(state.epochs, course.epochs):
        rate = course.learning_rate * (1.0 - epoch / course.epochs) ** 0.9
        for group in optimiser.param_groups:
            group["lr"] = rate
        network.train()
        loss = train_epoch(optimiser, epoch)
        row: dict[str, float | None] = {"epoch": epoch + 1, "learning_rate": rate, "loss": loss}
        last = epoch + 1 == course.epochs
        if validate is not None and (last or (epoch + 1) % course.validate_every == 0):
            network.eval()
            with _drawn(network, anchor):
                row |= validate()
                _remember(state, row, network)
        state.epochs = epoch + 1
        state.rows.append(row)
        save(course, state, network, optimiser)
        progress(epoch + 1, loss)
    if state.best_weights is not None:
        network.load_state_dict(state.best_weights)
    elif anchor is not None:
        network.load_state_dict(anchor.drawn(network.state_dict()))
    network.eval().requires_grad_(False)
    return state


@contextmanager
def _drawn(network: nn.Module, anchor: Anchor | None) -> Iterator[None]:
    """The network with weights drawn towards the anchor, and then with its own again."""
    if anchor is None:
        yield
        return
    trained = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(anchor.drawn(trained))
    yield
    network.load_state_dict(trained)


def _remember(state: State, row: Row, network: nn.Module) -> None:
    f1, loss = row["f1"], row["validation_loss"]
    rank = (round(f1 or 0.0, 2), -(loss or 0.0))
    if state.best is None or rank > state.best:
        state.best, state.best_epoch = rank, int(row["epoch"] or 0)
        state.best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}


def save(course: Course, state: State, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state and the log, each whole or not at all; the log follows from the state."""
    if course.checkpoint is None:
        return
    stored = vars(state) | {
        "settings_digest": course.settings_digest,
        "data_digest": course.data_digest,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    write_whole(course.checkpoint, lambda path: torch.save(stored, path))
    write_log(course.checkpoint.with_suffix(".csv"), state.rows)


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV with a column for everything that any row has; what is not known is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows])
    write_whole(path, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))


def resume(course: Course, network: nn.Module, optimiser: torch.optim.Optimizer) -> State:
    """The state to go on from, loaded into network and optimiser; a fresh one where there is none of this training."""
    checkpoint = course.checkpoint
    if checkpoint is None or not checkpoint.exists():
        return State()
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if stored.get("settings_digest") != course.settings_digest:
        raise UsageError(
            f"{checkpoint} belongs to a training with other settings",
            "remove it to start anew, or give the settings it was made with",
        )
    if stored["data_digest"] != course.data_digest:
        os.replace(checkpoint, checkpoint.with_suffix(".stale.pt"))
        return State()
    network.load_state_dict(stored["network"])
    optimiser.load_state_dict(stored["optimiser"])
    write_log(checkpoint.with_suffix(".csv"), stored["rows"])  # it may be a row behind
    return State(stored["epochs"], stored["rows"], stored["best"], stored["best_epoch"], stored["best_weights"])

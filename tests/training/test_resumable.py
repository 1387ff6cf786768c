"""The training loop by itself, with a learner that only counts: validations, selection, stops and resumption."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import torch

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.training.checkpoint import Checkpoint
from membrain_cloud.training.curve import CurveFile
from membrain_cloud.training.resumable import ResumableTraining, Row, RunState, Schedule, Selection, Weights

if TYPE_CHECKING:
    from pathlib import Path


class Counter:
    """Weights are the number of units done; scores are looked up by that number."""

    def __init__(self, scores: dict[int, float], *, losses: dict[int, float] | None = None) -> None:
        self.scores, self.losses = scores, losses or {}
        self.done, self.shipped = 0, -1
        self.validated: list[int] = []

    def train(self, unit: int) -> float:
        assert unit == self.done
        self.done += 1
        return self.losses.get(self.done, float(self.done))

    def validate(self) -> Row:
        self.validated.append(self.done)
        return {"f1": self.scores[self.done]}

    def score(self, scores: Row) -> tuple[float, ...]:
        return (scores["f1"],)

    def row(self, loss: float | None, scores: Row) -> Row:
        return {"epoch": self.done, "loss": loss, **scores}

    def weights(self) -> Weights:
        return {"count": torch.tensor(self.done)}

    def load_weights(self, weights: Weights) -> None:
        self.shipped = int(weights["count"])

    def state(self, run: RunState) -> dict[str, Any]:
        return {"done": self.done, "run": asdict(run)}

    def load(self, state: dict[str, Any]) -> RunState:
        self.done = state["done"]
        return RunState(**state["run"])


def make(
    learner: Counter, schedule: Schedule, selection: Selection, folder: Path | None = None
) -> ResumableTraining[int]:
    checkpoint = None if folder is None else Checkpoint(folder / "state.pt", {"digest": "s"})
    curve = None if folder is None else CurveFile(folder / "log.csv")
    return ResumableTraining(learner, schedule, selection, checkpoint, curve)


def train(training: ResumableTraining[int], learner: Counter) -> list[Row]:
    rows: list[Row] = []
    training.run(range(learner.done, training.schedule.total), on_row=rows.append)
    return rows


def test_rows_hold_the_mean_loss_since_the_row_before() -> None:
    learner = Counter({4: 0.1, 8: 0.2, 10: 0.3})
    rows = train(make(learner, Schedule(10, 4), Selection(keep_best=False)), learner)
    assert [(row["epoch"], row["loss"], row["f1"]) for row in rows] == [(4, 2.5, 0.1), (8, 6.5, 0.2), (10, 9.5, 0.3)]
    each = Counter({2: 0.1, 3: 0.2})
    rows = train(make(each, Schedule(3, 2, every_row=True), Selection(keep_best=False)), each)
    assert [row["loss"] for row in rows] == [1.0, 2.0, 3.0]
    assert [row.get("f1") for row in rows] == [None, 0.1, 0.2]
    never = Counter({})
    train(make(never, Schedule(3, 0, every_row=True), Selection(keep_best=True)), never)
    assert not never.validated


@pytest.mark.parametrize(
    ("selection", "shipped", "done", "stopped"),
    [
        (Selection(keep_best=True), 2, 6, False),
        (Selection(keep_best=False), 6, 6, False),
        (Selection(keep_best=True, patience=2), 2, 4, True),
        (Selection(keep_best=False, tolerance=0.2), 4, 5, True),
    ],
)
def test_selection_decides_which_weights_are_shipped(
    selection: Selection, shipped: int, done: int, stopped: bool
) -> None:
    learner = Counter({0: 0.5, 1: 0.6, 2: 0.8, 3: 0.7, 4: 0.45, 5: 0.39, 6: 0.6})
    training = make(learner, Schedule(6, 1), selection)
    if selection.tolerance:
        assert training.begin(in_curve=False) == (0.5,)
    train(training, learner)
    state = training.finish()
    assert (learner.shipped, learner.done, state.stopped) == (shipped, done, stopped)
    assert training.complete
    assert train(training, learner) == []


def test_initial_weights_are_kept_unless_others_are_better() -> None:
    learner = Counter({0: 0.5, 1: 0.4, 2: 0.5})
    training = make(learner, Schedule(2, 1), Selection(keep_best=True))
    training.begin(in_curve=True)
    train(training, learner)
    state = training.finish()
    assert (learner.shipped, state.best_at, state.best) == (0, 0, (0.5,))
    assert [row["epoch"] for row in state.rows] == [0, 1, 2]


@pytest.mark.parametrize("killed_after", range(7))
def test_a_killed_training_ends_like_one_left_alone(tmp_path: Path, killed_after: int) -> None:
    """Killed between two units, each of which was saved; the curve may lack the last row."""
    scores = {number: (number * 37 % 11) / 10 for number in range(8)}
    whole = Counter(scores)
    training = make(whole, Schedule(7, 2, save_seconds=-1.0), Selection(keep_best=True), tmp_path / "whole")
    train(training, whole)
    expected = training.finish()

    class Killed(Exception):
        pass

    def kill() -> None:
        if killed.done == killed_after + 1:
            raise Killed

    killed = Counter(scores)
    training = make(killed, Schedule(7, 2, save_seconds=-1.0), Selection(keep_best=True), tmp_path / "killed")
    with pytest.raises(Killed):
        training.run(range(7), on_unit=kill, on_row=lambda row: None)
    (tmp_path / "killed" / "log.csv").unlink(missing_ok=True)
    resumed = Counter(scores)
    training = make(resumed, Schedule(7, 2, save_seconds=-1.0), Selection(keep_best=True), tmp_path / "killed")
    training.resume()
    assert resumed.done == killed_after
    train(training, resumed)
    state = training.finish()
    assert (state.rows, state.best, state.best_at) == (expected.rows, expected.best, expected.best_at)
    assert resumed.shipped == whole.shipped
    assert (tmp_path / "killed" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


def test_infinite_losses_are_an_error_if_asked_for() -> None:
    def learner() -> Counter:
        return Counter({3: 0.1}, losses={2: float("inf")})

    one = learner()
    with pytest.raises(MembrainCloudError, match="the loss of step 2 is inf -> lower the setting learning_rate"):
        train(make(one, Schedule(3, 3, require_finite=True), Selection(keep_best=False)), one)
    other = learner()
    assert train(make(other, Schedule(3, 3), Selection(keep_best=False)), other)[0]["loss"] == float("inf")

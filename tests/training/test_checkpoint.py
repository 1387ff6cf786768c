"""Checkpoint files: refused for other settings, set aside for other data, replaced atomically."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from membrain_cloud.errors import UsageError
from membrain_cloud.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_a_state_is_read_back(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new" / "state.pt", {"digest": "s"})
    assert checkpoint.load() is None
    checkpoint.save({"weights": torch.arange(3), "rows": [[1, 0.5]]})
    state = checkpoint.load()
    assert state is not None
    assert (state["digest"], state["rows"], state["weights"].tolist()) == ("s", [[1, 0.5]], [0, 1, 2])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.pt"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "state.pt", {"digest": "s"}).save({})
    with pytest.raises(UsageError, match="other settings or data -> remove it"):
        Checkpoint(tmp_path / "state.pt", {"digest": "t"}).load()
    with pytest.raises(UsageError, match="other settings -> remove it"):
        Checkpoint(tmp_path / "state.pt", {"digest": "t"}, {"data_digest": "d"}).load()


def test_a_state_of_other_data_is_set_aside(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "state.pt", {"digest": "s"}, {"data_digest": "d"}).save({"epochs": 3})
    edited = Checkpoint(tmp_path / "state.pt", {"digest": "s"}, {"data_digest": "e"})
    assert edited.load() is None
    assert [path.name for path in tmp_path.iterdir()] == ["state.stale.pt"]
    assert torch.load(tmp_path / "state.stale.pt", weights_only=True)["epochs"] == 3


def test_a_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.pt", {"digest": "s"})
    checkpoint.save({"epochs": 3})
    with pytest.raises((TypeError, AttributeError)):
        checkpoint.save({"generator": (number for number in ())})
    state = checkpoint.load()
    assert state is not None
    assert state["epochs"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]

"""The state of a training in a file: written whole or not at all, and only its own is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from membrain_cloud.errors import UsageError


def save_state(checkpoint: Path, digest: str, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; digest : of all that decides the training."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")
    torch.save({"digest": digest, **state}, temporary)
    os.replace(temporary, checkpoint)


def load_state(checkpoint: Path, digest: str) -> dict[str, Any] | None:
    """An earlier state, on the CPU; None where there is none. UsageError for another training's."""
    if not checkpoint.exists():
        return None
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state.get("digest") != digest:
        raise UsageError(
            f"{checkpoint} belongs to a training with other settings or data",
            "remove it to start anew, or give the settings it was made with",
        )
    return state


def save(checkpoint: Path, digest: str, epochs: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state after `epochs`; digest : of all that decides the training."""
    state = {"epochs": epochs, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    save_state(checkpoint, digest, state)


def resume(checkpoint: Path | None, digest: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load an earlier state where there is one; returns the number of epochs done. UsageError for another's."""
    state = None if checkpoint is None else load_state(checkpoint, digest)
    if state is None:
        return 0
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epochs"])

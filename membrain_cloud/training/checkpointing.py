"""The state of a training between two epochs, in a file: written whole or not at all, and only its own is read."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from membrain_cloud.errors import UsageError


def save(checkpoint: Path, digest: str, epochs: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state after `epochs`; digest : of all that decides the training."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")
    state = {"digest": digest, "epochs": epochs, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


def resume(checkpoint: Path | None, digest: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load an earlier state where there is one; returns the number of epochs done. UsageError for another's."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["digest"] != digest:
        raise UsageError(
            f"{checkpoint} belongs to a training with other settings or data",
            "remove it to start anew, or give the settings it was made with",
        )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epochs"])

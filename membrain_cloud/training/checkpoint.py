"""The state of a training in a file: written whole or not at all, and only its own is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def save_state(checkpoint: Path, digest: str, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; digest : of all that decides the training."""
    write_whole(checkpoint, lambda path: torch.save({"digest": digest, **state}, path))


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `target`, whose folder is made where it is missing, and take it for `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    write(temporary)
    os.replace(temporary, target)


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

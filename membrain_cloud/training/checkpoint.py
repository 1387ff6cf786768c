"""Read and write the checkpoint file of a training. Only a checkpoint of the same training is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint file of one training, replaced atomically at every save.

    Attributes
    ----------
    path : Path
        The file. Its folder is created at the first save.
    settings : mapping of str to str
        Digests stored with the checkpoint, by name. A file with other digests is refused.
    data : mapping of str to str
        Digests of data that may be edited between two runs. A file with other digests is renamed to `*.stale.pt`, and
        training starts from the beginning. Default: none; `settings` then cover the data as well.
    """

    path: Path
    settings: Mapping[str, str]
    data: Mapping[str, str] = field(default_factory=dict)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state and the digests.

        Parameters
        ----------
        state : mapping
            Tensors and plain values.
        """
        content = {**self.settings, **self.data, **state}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                torch.save(content, file)

        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(self.path, write)

    def load(self) -> dict[str, Any] | None:
        """Return the stored state, with tensors on the CPU.

        Returns
        -------
        state : dict or None
            What `save` wrote; None if there is no checkpoint, or only one of other data.

        Raises
        ------
        UsageError
            If the checkpoint belongs to a training with other settings.
        """
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if any(state.get(name) != digest for name, digest in self.settings.items()):
            kinds = "settings" if self.data else "settings or data"
            raise UsageError(
                f"{self.path} belongs to a training with other {kinds}",
                "remove it to start anew, or give the settings it was made with",
            )
        if any(state.get(name) != digest for name, digest in self.data.items()):
            self.path.replace(self.path.with_suffix(".stale.pt"))
            return None
        return state

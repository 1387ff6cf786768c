"""Compile a forward pass by torch and record it as CUDA graphs, to reduce the time between a GPU's kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)
Forward = Callable[[Tensor], Tensor]
Compilation = Literal["no", "compile", "graphs", "both"]
# Calls before a recording: kernels are chosen, workspaces allocated. NVIDIA advises three.
_WARM_UPS = 3


class CompiledModule:
    """A module that is compiled by `torch.compile` at its first call; the module itself where that fails.

    Sums may be in another order, so logits differ in their last digits.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._forward: Forward | None = None

    def __call__(self, windows: Tensor) -> Tensor:
        """Return the module's output for windows (B, 1, w, w, w)."""
        if self._forward is not None:
            return self._forward(windows)
        forward: Forward = self._module
        try:
            forward = torch.compile(self._module, dynamic=False)
            made = forward(windows)
        except torch.OutOfMemoryError:
            raise  # the caller takes fewer windows; compiling is tried again with them
        except Exception as error:  # no C++ compiler, no Triton, an operator it does not know: it raises many kinds
            _LOG.warning("the network is not compiled, which costs time only: %s", first_line(error))
            forward = self._module
            made = forward(windows)
        self._forward = forward
        return made


class RecordedForward:
    """A forward pass on a GPU, recorded once for each shape of windows and then replayed.

    Its results belong to the caller. Recordings keep their maps, so at most `limit` of them are held; further shapes
    are computed without, and all where recording fails.

    Parameters
    ----------
    forward : callable
        The forward pass.
    limit : int
        Largest number of recordings. Default: 2.
    """

    def __init__(self, forward: Forward, limit: int = 2) -> None:
        self._forward, self._limit = forward, limit
        self._recordings: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        """Return the forward pass's output for windows (B, 1, w, w, w)."""
        if windows.shape not in self._recordings:
            if len(self._recordings) >= self._limit:
                return self._forward(windows)
            try:
                self._recordings[windows.shape] = self._record(windows)
            except RuntimeError as error:  # no memory for its own maps, or an operator that waits for the host
                _LOG.warning("the network is not recorded as CUDA graphs, which costs time only: %s", first_line(error))
                self._limit = 0
                return self._forward(windows)
        graph, seen, made = self._recordings[windows.shape]
        seen.copy_(windows)
        graph.replay()
        return made.clone()

    def _record(self, windows: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        seen = windows.clone()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                self._forward(seen)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._forward(seen)
        return graph, seen, made


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type.

    Parameters
    ----------
    error : Exception
        The error.

    Returns
    -------
    str
        One line.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

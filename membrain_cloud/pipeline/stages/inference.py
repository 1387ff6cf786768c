"""How a tomogram is looked at: windows, mirrors, rescaling and arithmetic, from settings, model and voxel spacing.

What `run` and `segment FILE` have in common, so that both give the same.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.geometry import Block, Box, Zyx
from membrain_cloud.pipeline.stages.gpu_turn import GpuTurn
from membrain_cloud.segmentation.sliding_window import (
    Read,
    Slab,
    Statistics,
    WindowAverager,
    density_statistics,
    segment_slabs,
)
from membrain_cloud.tiling import Tiling, Window, window_stride

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.networks.segmentation.segmenter import Segmenter
    from membrain_cloud.pipeline.settings import SegmentSettings

# Farther from the model's voxel spacing than this, fast mode rescales its windows. MemBrain-seg's networks and ours are
# trained on zooms of about 0.7 to 1.4; within them rescaling gained nothing on phantoms (Surface-Dice).
_NEAR_ENOUGH = 0.45
_READ_BYTES = 2**30
# Of a volume in memory that are made at once.
_PLANES = 64


@dataclass(frozen=True)
class SlidingWindow:
    """tiling : of the tomogram's own voxels.  window : edge the network sees; it differs where windows are rescaled.

    notes : what a user should know, in sentences.
    """

    tiling: Tiling
    window: int
    notes: tuple[str, ...]


def sliding_window(chosen: SegmentSettings, spacing_angstrom: float) -> SlidingWindow:
    """Raises UsageError for a window that the network cannot take, VoxelSpacingError for an absurd rescaling."""
    from membrain_cloud.networks.segmentation.window_rescaling import rescaled_edge

    window, trained_at = model_window(chosen), model_spacing_angstrom(chosen)
    far = abs(math.log(spacing_angstrom / trained_at)) > math.log(1 + _NEAR_ENOUGH)
    rescale = chosen.rescale if chosen.rescale is not None else (far and chosen.mode == "fast")
    reach, notes = window, []
    if rescale:
        reach = rescaled_edge(window, from_angstrom=trained_at, to_angstrom=spacing_angstrom)
        if not window / 8 <= reach <= window * 8 or reach < 8:
            raise VoxelSpacingError(
                f"{spacing_angstrom:g} Å a voxel is too far from the model's {trained_at:g} Å to rescale windows",
                "give the right spacing with --voxel-spacing, or bin the tomogram first",
            )
        if reach != window:
            notes.append(
                f"windows of {reach} voxels at {spacing_angstrom:g} Å are rescaled to {window} at {trained_at:g} Å"
            )
    elif far:
        notes.append(
            f"{spacing_angstrom:g} Å a voxel, the network was trained at {trained_at:g} Å: expect it to do worse, "
            "or rescale with --set segment.rescale=yes"
        )
    return SlidingWindow(
        Tiling(reach, window_stride(reach, chosen.overlap), chosen.effective_mirrors), window, tuple(notes)
    )


def predict_slabs(
    chosen: SegmentSettings,
    sliding: SlidingWindow,
    network: Segmenter,
    read: Read,
    shape: Zyx,
    block: Block,
    *,
    statistics: Statistics,
    chunk_planes: int,
    progress: Callable[[int], None] = lambda _: None,
    turn: GpuTurn | None = None,
) -> Iterator[Slab]:
    """The logits of a block, slab by slab, as `membranes.segmentation.segment_slabs`.

    read : box of the block's halo -> voxels.  chunk_planes : depth of the stored chunks that it reads.
    turn : at a GPU: taken when all that can be done without it is done, ended with the last window.
    """
    averager = network.averager(
        sliding.tiling,
        block,
        window=sliding.window,
        mean=statistics.mean,
        std=statistics.std,
        variance=chosen.uncertainty,
        skip_void=chosen.skip_void,
        batch=chosen.batch or default_batch(sliding.window, network.device.type),
    )
    planes = planes_per_read(block.halo.shape, chunk_planes)

    def slabs_of(painted: WindowAverager) -> Iterator[Slab]:
        return segment_slabs(
            painted, read, shape, block, tiling=sliding.tiling, planes_per_read=planes, progress=progress
        )

    if network.device.type == "cpu":
        return slabs_of(averager)
    turn = turn or GpuTurn()
    return _one_ahead(_until_done(slabs_of(_InTurn(averager, turn.acquire)), turn))


def segment_in_memory(
    chosen: SegmentSettings, density: NDArray[np.float32], spacing_angstrom: float
) -> NDArray[np.bool_]:
    """The mask of a tomogram in memory (Z, Y, X), small components included."""
    from membrain_cloud.pipeline.models import model_sha256

    network = segmenter(chosen.model, model_sha256(chosen.model), chosen.effective_precision)
    z, y, x = density.shape
    everything = Box((0, 0, 0), (z, y, x))
    slabs = predict_slabs(
        chosen,
        sliding_window(chosen, spacing_angstrom),
        network,
        lambda box: density[box.slices],
        everything.shape,
        Block(0, everything, everything),
        statistics=density_statistics([density]),
        chunk_planes=_PLANES,
    )
    return np.concatenate([slab.logits > chosen.threshold for slab in slabs])


def _until_done(slabs: Iterator[Slab], turn: GpuTurn) -> Iterator[Slab]:
    try:
        yield from slabs
    finally:
        turn.release()


def _one_ahead(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """The same, the next one being made while one is written."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, slabs, None)
        while (slab := coming.result()) is not None:
            coming = maker.submit(next, slabs, None)
            yield slab


class _InTurn:
    """A averager that waits for its turn before it paints."""

    def __init__(self, averager: WindowAverager, take_turn: Callable[[], None]) -> None:
        self.start, self.feed, self.take = averager.start, averager.feed, averager.take
        self._canvas, self._take_turn = averager, take_turn

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        self._take_turn()
        self._canvas.paint(windows, progress)


def default_batch(window: int, device: str) -> int:
    """Windows a forward pass: one on a CPU, about two of 160 voxels' worth on a GPU."""
    return 1 if device == "cpu" else max(1, 2 * 160**3 // window**3)


def planes_per_read(halo: Zyx, chunk_planes: int) -> int:
    """A whole row of chunks at once, where that is not more than a GiB of float32."""
    return max(1, min(chunk_planes, _READ_BYTES // (4 * halo[1] * halo[2])))


def network_bytes(chosen: SegmentSettings) -> int:
    """Host memory of the network at work on a CPU, weights included: three maps of the finest level and the rest."""
    header = _header(chosen.model)["architecture"]
    channels, window = header["channels"], model_window(chosen)
    maps = 14 * channels[0] * window**3
    weights = 27 * 4 * sum((6 if header["residual"] else 5) * c * c for c in channels)
    return int(maps + 2 * weights)


def window_forward_flops(chosen: SegmentSettings, window: int) -> float:
    """Floating point operations of one forward pass on a window."""
    from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, window_flops

    return window_flops(UNetArchitecture.from_dict(dict(_header(chosen.model)["architecture"])), window)


def model_spacing_angstrom(chosen: SegmentSettings) -> float:
    """What the model was trained at."""
    return float(_header(chosen.model)["voxel_spacing_angstrom"])


def model_window(settings: SegmentSettings) -> int:
    """The window to use: the one set, which must suit the network, or the one it was made for."""
    header = _header(settings.model)
    multiple = 2 ** (len(header["architecture"]["channels"]) - 1)
    window = int(header["window"]) if settings.window is None else settings.window
    if window % multiple or window < 2 * multiple:
        fitting = max(2, round(window / multiple)) * multiple
        raise UsageError(
            f"segment.window = {window}: {settings.model} takes multiples of {multiple}, from {2 * multiple}",
            f"try {fitting}",
        )
    return window


@functools.lru_cache(maxsize=8)
def _header(model: str) -> Mapping[str, Any]:
    from membrain_cloud.pipeline.models import header_for

    return header_for("segmentation", model)


@functools.lru_cache(maxsize=2)
def segmenter(
    model: str, sha256: str, precision: str, compilation: Literal["no", "compile", "graphs", "both"] = "no"
) -> Segmenter:
    """The network, loaded once a process; on a GPU where there is one."""
    from membrain_cloud.pipeline.models import load_segmenter

    device = "cuda" if on_gpu() else "cpu"
    return load_segmenter(model, sha256=sha256, device=device, precision=precision, compilation=compilation)


def on_gpu() -> bool:
    """Whether networks run on a GPU here."""
    import torch

    return torch.cuda.is_available()

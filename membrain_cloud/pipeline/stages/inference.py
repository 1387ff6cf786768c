"""Segment a volume by a sliding window: choose windows, mirrors and batches, and run the network.

`run` and `segment FILE` both come through here, so that both give the same result.
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
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.networks.segmentation.segmenter import Segmenter
    from membrain_cloud.pipeline.settings import SegmentSettings

# Relative difference from the model's voxel spacing above which fast mode rescales windows. MemBrain-seg's networks and
# ours are trained on zooms of about 0.7 to 1.4; within them rescaling gained nothing on phantoms (Surface-Dice).
_RESCALE_ABOVE = 0.45
# Limit of one read, in bytes of float32.
_READ_BYTES = GIB
# Planes in one slab of a volume in memory.
_PLANES = 64


@dataclass(frozen=True)
class SlidingWindow:
    """The windows over one tomogram.

    Attributes
    ----------
    tiling : Tiling
        Windows in the tomogram's own voxels.
    window : int
        Edge of the network's window in voxels; another one than the tiling's where windows are rescaled.
    notes : tuple of str
        Sentences for the user about rescaling and unsuitable voxel spacings.
    """

    tiling: Tiling
    window: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DensitySource:
    """A volume of densities that is read box by box.

    Attributes
    ----------
    read : callable
        Box -> (Z, Y, X) densities.
    shape : tuple of int
        Shape zyx of the volume.
    statistics : Statistics
        Mean and standard deviation of the whole volume's densities.
    chunk_planes : int
        Depth of the stored chunks, in planes.
    """

    read: Read
    shape: Zyx
    statistics: Statistics
    chunk_planes: int


def sliding_window(settings: SegmentSettings, spacing_angstrom: float) -> SlidingWindow:
    """Choose the windows for a tomogram, and whether they are rescaled.

    Parameters
    ----------
    settings : SegmentSettings
        Model, window, overlap, mirrors and rescaling.
    spacing_angstrom : float
        Voxel spacing of the tomogram in Å.

    Returns
    -------
    SlidingWindow
        The windows.

    Raises
    ------
    UsageError
        If the network cannot take a window of this size.
    VoxelSpacingError
        If the voxel spacing is too far from the model's to rescale windows.
    """
    from membrain_cloud.networks.segmentation.window_rescaling import rescaled_edge

    window, trained_at = model_window(settings), model_spacing_angstrom(settings)
    is_far = abs(math.log(spacing_angstrom / trained_at)) > math.log(1 + _RESCALE_ABOVE)
    rescale = settings.rescale if settings.rescale is not None else (is_far and settings.mode == "fast")
    edge, notes = window, []
    if rescale:
        edge = rescaled_edge(window, from_angstrom=trained_at, to_angstrom=spacing_angstrom)
        if not window / 8 <= edge <= window * 8 or edge < 8:
            raise VoxelSpacingError(
                f"voxel spacing {spacing_angstrom:g} Å: too far from the model's {trained_at:g} Å to rescale windows",
                "give the right voxel spacing, or bin the tomogram first",
            )
        if edge != window:
            notes.append(
                f"windows of {edge} voxels at {spacing_angstrom:g} Å are rescaled to {window} at {trained_at:g} Å"
            )
    elif is_far:
        notes.append(
            f"{spacing_angstrom:g} Å a voxel, the network was trained at {trained_at:g} Å: expect it to do worse, "
            "or rescale windows with segment.rescale=yes"
        )
    tiling = Tiling(edge, window_stride(edge, settings.overlap), settings.effective_mirrors)
    return SlidingWindow(tiling, window, tuple(notes))


def predict_slabs(
    settings: SegmentSettings,
    windows: SlidingWindow,
    network: Segmenter,
    source: DensitySource,
    block: Block,
    *,
    progress: Callable[[int], None] = lambda _: None,
    gpu_turn: GpuTurn | None = None,
) -> Iterator[Slab]:
    """Predict the logits of a block, slab by slab.

    Parameters
    ----------
    settings : SegmentSettings
        Batch size, uncertainty, and whether empty windows are skipped.
    windows : SlidingWindow
        The windows over the volume.
    network : Segmenter
        The segmentation network.
    source : DensitySource
        The volume.
    block : Block
        The part of the volume to predict, with its halo.
    progress : callable
        Called with the number of windows done since the last call. Default: nothing.
    gpu_turn : GpuTurn or None
        Turn at the GPU: acquired when all is done that can be done without it, released after the last window.
        Default: one of its own.

    Yields
    ------
    Slab
        Logits, and their variance where `uncertainty` is set, of consecutive planes of the block's core.
    """
    averager = network.averager(
        windows.tiling,
        block,
        window=windows.window,
        mean=source.statistics.mean,
        std=source.statistics.std,
        variance=settings.uncertainty,
        skip_void=settings.skip_void,
        batch=settings.batch or default_batch(windows.window, network.device.type),
    )
    planes = planes_per_read(block.halo.shape, source.chunk_planes)

    def slabs_by(averager: WindowAverager) -> Iterator[Slab]:
        return segment_slabs(
            averager, source.read, source.shape, block, tiling=windows.tiling, planes_per_read=planes, progress=progress
        )

    if network.device.type == "cpu":
        return slabs_by(averager)
    turn = gpu_turn or GpuTurn()
    return _prefetch_one(_release_after(slabs_by(_WaitingAverager(averager, turn.acquire)), turn))


def segment_in_memory(
    settings: SegmentSettings,
    density: NDArray[np.float32],
    spacing_angstrom: float,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.bool_]:
    """Segment a tomogram in memory.

    Parameters
    ----------
    settings : SegmentSettings
        Settings of the segmentation.
    density : (Z, Y, X) float32 array
        Densities.
    spacing_angstrom : float
        Voxel spacing in Å.
    progress : callable
        Called with numbers of windows, as they are finished. Default: nothing is called.

    Returns
    -------
    (Z, Y, X) bool array
        True in membranes; small connected components are not removed.
    """
    from membrain_cloud.pipeline.models import model_sha256

    network = segmenter(settings.model, model_sha256(settings.model), settings.effective_precision)
    z, y, x = density.shape
    volume = Box((0, 0, 0), (z, y, x))
    source = DensitySource(
        lambda box: density[box.slices], volume.shape, density_statistics([density]), chunk_planes=_PLANES
    )
    windows = sliding_window(settings, spacing_angstrom)
    slabs = predict_slabs(settings, windows, network, source, Block(0, volume, volume), progress=progress)
    return np.concatenate([slab.logits > settings.threshold for slab in slabs])


def _release_after(slabs: Iterator[Slab], turn: GpuTurn) -> Iterator[Slab]:
    try:
        yield from slabs
    finally:
        turn.release()


def _prefetch_one(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """Make the next slab in a thread while the caller writes the last one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, slabs, None)
        while (slab := coming.result()) is not None:
            coming = thread.submit(next, slabs, None)
            yield slab


class _WaitingAverager:
    """A window averager that waits for its turn at the GPU before it paints."""

    def __init__(self, averager: WindowAverager, acquire_turn: Callable[[], None]) -> None:
        self.start, self.feed, self.take = averager.start, averager.feed, averager.take
        self._averager, self._acquire_turn = averager, acquire_turn

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        """Predict some windows and add them to the averages."""
        self._acquire_turn()
        self._averager.paint(windows, progress)


def default_batch(window: int, device: str) -> int:
    """Return the number of windows in one forward pass: 1 on a CPU, on a GPU the voxels of two windows of 160.

    Parameters
    ----------
    window : int
        Edge of the network's window in voxels.
    device : str
        Type of the device, "cpu" or "cuda".

    Returns
    -------
    int
        Windows, at least 1.
    """
    return 1 if device == "cpu" else max(1, 2 * 160**3 // window**3)


def planes_per_read(halo: Zyx, chunk_planes: int) -> int:
    """Return how many planes are read at once: a row of chunks, but at most 1 GiB of float32.

    Parameters
    ----------
    halo : tuple of int
        Shape zyx of the block with its halo.
    chunk_planes : int
        Depth of the stored chunks, in planes.

    Returns
    -------
    int
        Planes, at least 1.
    """
    return max(1, min(chunk_planes, _READ_BYTES // (4 * halo[1] * halo[2])))


def network_bytes(settings: SegmentSettings) -> int:
    """Return the host memory of the network at work on a CPU, weights included, in bytes.

    Parameters
    ----------
    settings : SegmentSettings
        Model and window.

    Returns
    -------
    int
        Bytes, for one window at a time.
    """
    header = _header(settings.model)["architecture"]
    channels, window = header["channels"], model_window(settings)
    maps = 14 * channels[0] * window**3  # three maps of the finest level, and those of the others
    weights = 27 * 4 * sum((6 if header["residual"] else 5) * c * c for c in channels)
    return int(maps + 2 * weights)


def window_forward_flops(settings: SegmentSettings, window: int) -> float:
    """Return the floating point operations of one forward pass.

    Parameters
    ----------
    settings : SegmentSettings
        The settings, for the model.
    window : int
        Edge of the network's window in voxels.

    Returns
    -------
    float
        Floating point operations.
    """
    from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, window_flops

    return window_flops(UNetArchitecture.from_dict(dict(_header(settings.model)["architecture"])), window)


def model_spacing_angstrom(settings: SegmentSettings) -> float:
    """Return the voxel spacing at which the model was trained, in Å.

    Parameters
    ----------
    settings : SegmentSettings
        The settings, for the model.

    Returns
    -------
    float
        Å a voxel.
    """
    return float(_header(settings.model)["voxel_spacing_angstrom"])


def model_window(settings: SegmentSettings) -> int:
    """Return the edge of the network's window in voxels: the setting, or else the model's.

    Parameters
    ----------
    settings : SegmentSettings
        The settings, for model and window.

    Returns
    -------
    int
        Voxels.

    Raises
    ------
    UsageError
        If the network cannot take a window of this size.
    """
    header = _header(settings.model)
    multiple = 2 ** (len(header["architecture"]["channels"]) - 1)
    window = int(header["window"]) if settings.window is None else settings.window
    if window % multiple or window < 2 * multiple:
        nearest = max(2, round(window / multiple)) * multiple
        raise UsageError(
            f"segment.window = {window}: {settings.model} takes multiples of {multiple}, from {2 * multiple}",
            f"try {nearest}",
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
    """Load a segmentation network, once in a process; on a GPU where there is one.

    Parameters
    ----------
    model : str
        The model as `models.resolve` takes it.
    sha256 : str
        Its checksum as planned.
    precision : str
        As `SegmentSettings.effective_precision`.
    compilation : str
        As the setting `segment.compilation`. Default: "no".

    Returns
    -------
    Segmenter
        The network, ready for inference.
    """
    from membrain_cloud.pipeline.models import load_segmenter

    device = "cuda" if on_gpu() else "cpu"
    return load_segmenter(model, sha256=sha256, device=device, precision=precision, compilation=compilation)


def on_gpu() -> bool:
    """Return whether this process runs networks on a GPU."""
    import torch

    return bool(torch.cuda.is_available())

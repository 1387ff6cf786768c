"""One file in, two files out: `segment FILE`, without a project."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import StorageError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Block, Box, Zyx, window_boxes
from membrain_cloud.membranes.segmentation import density_statistics, padded_shape, segment_block, window_stride
from membrain_cloud.networks.checkpoints import model_sha256
from membrain_cloud.pipeline.segmenting import model_window, segmenter
from membrain_cloud.pipeline.settings import SegmentSettings
from membrain_cloud.store.exchange import file_stem, read_volume, write_mrc


@dataclass(frozen=True)
class SegmentedFile:
    """What was written. `notes` say what was assumed about the input."""

    scores: str
    segmented: str
    membrane_voxels: int
    notes: tuple[str, ...]


def segment_file(
    path: str,
    settings: SegmentSettings,
    *,
    output: str,
    voxel_spacing_angstrom: float | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentedFile:
    """Segment a volume file; write `<stem>_scores.mrc` (logits, float32) and `<stem>_segmented.mrc` (0 and 1).

    progress : told (windows done, windows in all).
    Raises TomogramError, ChunkError for a bad input; StorageError where `output` cannot be written.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path}: there is no such file", "give an .mrc, .rec or .tif volume")
    network = segmenter(settings.model, model_sha256(settings.model))
    density, header = read_volume(path)
    spacing = voxel_spacing_angstrom or header.voxel_spacing_angstrom
    notes = header.notes
    if spacing is None:
        raise VoxelSpacingError(f"{path}: no believable voxel spacing", "give it in Å: --voxel-spacing 10")
    trained_at = network.voxel_spacing_angstrom
    if abs(spacing - trained_at) > 0.25 * trained_at:
        notes = (*notes, f"{spacing:g} Å a voxel, the network was trained at {trained_at:g} Å: expect it to do worse")
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output}: {error.strerror}", "give another --output") from None
    logits = _logits(density, settings, network.predict, progress)
    stem = os.path.join(output, file_stem(path))
    mask = (logits > settings.threshold).astype(np.uint8)
    write_mrc(f"{stem}_scores.mrc", logits, spacing)
    write_mrc(f"{stem}_segmented.mrc", mask, spacing)
    return SegmentedFile(f"{stem}_scores.mrc", f"{stem}_segmented.mrc", int(np.count_nonzero(mask)), notes)


def _logits(
    density: NDArray[Any],
    settings: SegmentSettings,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    z, y, x = density.shape
    shape: Zyx = (z, y, x)
    window = model_window(settings)
    everything = Box((0, 0, 0), shape)
    stride = window_stride(window, settings.window_overlap)
    total = len(window_boxes(padded_shape(shape, window), window, stride))
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return segment_block(
        predict,
        lambda box: density[box.slices],
        shape,
        Block(0, everything, everything),
        statistics=density_statistics([density]),
        window=window,
        overlap=settings.window_overlap,
        mirrors=settings.with_mirrors,
        batch=settings.batch,
        progress=count,
    )

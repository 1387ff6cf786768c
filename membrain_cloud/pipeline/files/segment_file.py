"""Segment volume files into volume files, without a project."""

from __future__ import annotations

import contextlib
import glob
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.pipeline.files import postprocess
from membrain_cloud.pipeline.files.outputs import SegmentedFile, earlier_outputs, file_identity, publish, staging
from membrain_cloud.pipeline.models import model_sha256, registry_facts
from membrain_cloud.pipeline.stages.inference import DensitySource, predict_slabs, segmenter, sliding_window
from membrain_cloud.pipeline.stages.output_grid import GridChoice, choose_grids, output_blocks
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.sliding_window import Slab, Statistics, density_statistics
from membrain_cloud.store.formats.local_input import path_exists
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.volumes.scratch_array import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from membrain_cloud.pipeline.settings import SegmentSettings

# Masks and variances are kept in memory up to this size, beyond it in files without a name.
_SCRATCH_BYTES = 2**28
# Voxels read at once for the statistics, if the stored chunks are smaller.
_PART_VOXELS = 2**23
# Planes that a prediction reads at once, if the stored chunks have fewer.
_CHUNK_PLANES = 16
_NEXT_STEP = "give an .mrc, .rec, .zarr or .tif volume"


@dataclass(frozen=True)
class FileOptions:
    """What `segment_file` writes, and where.

    Attributes
    ----------
    output : str
        Folder of the outputs.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    scores : bool
        Whether the logits are written.
    components : bool
        Whether the 26-connected components are numbered, in place of 0 and 1.
    min_voxels : int
        Smaller components are left out.
    skeleton : bool
        Whether the mask's skeleton is written.
    overwrite : bool
        Whether outputs that were made with other settings or of another file are replaced.
    """

    output: str
    voxel_spacing_angstrom: float | None
    scores: bool
    components: bool
    min_voxels: int
    skeleton: bool
    overwrite: bool


def expand(patterns: Sequence[str]) -> list[str]:
    """Return the files of names and patterns, in the order given, each once.

    Parameters
    ----------
    patterns : sequence of str
        Names, or patterns with * and ?. Patterns leave out the outputs of `segment_file` and `postprocess`.

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        If no file matches a pattern.
    """
    files: dict[str, None] = {}
    for pattern in patterns:
        matches = [pattern]
        if glob.has_magic(pattern) and not path_exists(pattern):
            # Not Path.glob: the names are shown as the pattern is written.
            matches = [path for path in sorted(glob.glob(pattern)) if not postprocess.is_output(path)]  # noqa: PTH207
            if not matches:
                raise UsageError(f"{pattern}: there is no such file", _NEXT_STEP)
        files.update(dict.fromkeys(matches))
    return list(files)


def segment_file(
    path: str,
    settings: SegmentSettings,
    options: FileOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentedFile:
    """Segment a volume file of any size; all outputs appear together, when all are complete.

    The outputs are `<stem>_scores.mrc` (logits, float32), `<stem>_segmented.mrc` (0 and 1, or components), and where
    asked for `<stem>_uncertainty_map.mrc` and `<stem>_segmented_skel.mrc`. `<stem>_segmented.json` says how they were
    made. They have the origin of the input and, unless `settings.output_grid` says otherwise, its voxel spacing.

    Parameters
    ----------
    path : str
        The volume's file.
    settings : SegmentSettings
        Model and settings of the prediction.
    options : FileOptions
        What is written, and where.
    progress : callable
        Called with the windows done and the windows in all.

    Returns
    -------
    SegmentedFile

    Raises
    ------
    TomogramError, ChunkError, VoxelSpacingError
        If the input cannot be used.
    UsageError
        If the file is missing, or other outputs exist and may not be replaced.
    StorageError
        If `options.output` cannot be written.
    """
    path = path.removeprefix("file://")
    if "://" not in path and not path_exists(path):
        raise UsageError(f"{path}: there is no such file", _NEXT_STEP)
    if "://" in options.output:
        raise UsageError(f"{options.output}: no local folder", "give a local output folder, and copy the files after")
    planned = _planned(path, settings, options)
    with open_volume_file(path) as volume:
        own_frame = postprocess.frame_of(volume, options.voxel_spacing_angstrom)
        levels = volume.levels(own_frame.voxel_spacing_angstrom)
        grids = choose_grids(settings, levels)
        frame = replace(own_frame, shape=grids.output.shape, voxel_spacing_angstrom=grids.output.voxel_spacing_angstrom)
        source = volume.level(levels[grids.level]) if grids.level else volume
        recipe = _recipe(path, frame, settings, options)
        earlier = earlier_outputs(planned, recipe, overwrite=options.overwrite)
        if earlier is not None:
            return earlier
        with staging(options.output) as folder:
            staged = _in_folder(planned, folder)
            window_notes = sliding_window(settings, grids.source.voxel_spacing_angstrom).notes
            statistics = _statistics(source)
            finished = _write_outputs(
                source, grids, frame, settings, options, staged, statistics=statistics, progress=progress
            )
            notes = (*postprocess.notes_of(volume), *window_notes, *statistics.notes)
            finished = replace(finished, notes=notes)
            return publish(finished, staged, planned, recipe)


def _planned(path: str, settings: SegmentSettings, options: FileOptions) -> SegmentedFile:
    def named(suffix: str) -> str:
        return postprocess.output_path(options.output, path, suffix)

    return SegmentedFile(
        file=path,
        state="done",
        segmented=named("_segmented"),
        scores=named("_scores") if options.scores else None,
        uncertainty_map=named("_uncertainty_map") if settings.uncertainty else None,
        skeleton=named("_segmented_skel") if options.skeleton else None,
        membrane_voxels=0,
        components=None,
        notes=(),
    )


def _in_folder(planned: SegmentedFile, folder: str) -> SegmentedFile:
    """Return the same names in another folder."""

    def moved(path: str | None) -> str | None:
        return None if path is None else str(Path(folder, Path(path).name))

    return replace(
        planned,
        segmented=str(Path(folder, Path(planned.segmented).name)),
        scores=moved(planned.scores),
        uncertainty_map=moved(planned.uncertainty_map),
        skeleton=moved(planned.skeleton),
    )


def _write_outputs(
    volume: VolumeFile,
    grids: GridChoice,
    frame: postprocess.Frame,
    settings: SegmentSettings,
    options: FileOptions,
    names: SegmentedFile,
    *,
    statistics: Statistics,
    progress: Callable[[int, int], None],
) -> SegmentedFile:
    """Predict, and write all outputs into the staging folder."""
    folder = str(Path(names.segmented).parent)
    with ScratchSpace(folder, memory_bytes=_SCRATCH_BYTES, moved_by="output") as scratch:
        mask = scratch.array(frame.shape, np.uint8)
        variance = scratch.array(frame.shape, np.float32) if names.uncertainty_map else None
        with contextlib.ExitStack() as stack:
            scores = None
            if names.scores:
                scores = stack.enter_context(frame.writer(names.scores, "float32", overwrite=False))
            for slab in _slabs(volume, grids, settings, statistics, progress):
                box = Box((slab.start, 0, 0), (slab.start + len(slab.logits), *frame.shape[1:]))
                mask.write(box, scores_above(slab.logits, settings.threshold).astype(np.uint8))
                if scores is not None:
                    scores.write(box, slab.logits)
                if variance is not None:
                    assert slab.variance is not None
                    variance.write(box, slab.variance)
        components = None
        if options.components:
            components = _number_components(frame, names.segmented, mask, options.min_voxels)
            voxels = sum(int(np.count_nonzero(mask.read(box))) for box in postprocess.planes(frame.shape))
        else:
            voxels = postprocess.write_mask(frame, names.segmented, mask.read, overwrite=False)
        if names.skeleton:
            postprocess.write_skeleton(frame, names.skeleton, mask.read, overwrite=False)
        if names.uncertainty_map and variance is not None:
            postprocess.write_uncertainty(frame, names.uncertainty_map, variance.read, mask.read, overwrite=False)
        return replace(names, membrane_voxels=voxels, components=components)


def _number_components(frame: postprocess.Frame, path: str, mask: Any, min_voxels: int) -> int:
    """Write the components, and remove from the mask what is too small for one."""
    count = postprocess.write_components(frame, path, mask.read, min_voxels=min_voxels, overwrite=False)
    with open_volume_file(path) as labels:
        for box in postprocess.planes(frame.shape):
            mask.write(box, (labels.read(box) != 0).astype(np.uint8))
    return count


def _slabs(
    volume: VolumeFile,
    grids: GridChoice,
    settings: SegmentSettings,
    statistics: Statistics,
    progress: Callable[[int, int], None],
) -> Iterator[Slab]:
    """Predict the scores on the output's grid, from the first planes to the last."""
    windows, shape = sliding_window(settings, grids.source.voxel_spacing_angstrom), grids.source.shape
    (part,) = output_blocks(grids, windows.tiling, grids.output.shape)
    total, done = windows.tiling.count(shape), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    slabs = predict_slabs(
        settings,
        windows,
        segmenter(settings.model, model_sha256(settings.model), settings.effective_precision, settings.compilation),
        DensitySource(volume.read, shape, statistics, chunk_planes=max(volume.chunk[0], _CHUNK_PLANES)),
        part.block,
        progress=count,
    )
    return grids.regridding.apply(slabs, part.core)


def _statistics(volume: VolumeFile) -> Statistics:
    try:
        return density_statistics(lambda: (volume.read(box) for box in _parts(volume)))
    except TomogramError as error:
        raise TomogramError(f"{volume.path}: {error.message}", error.next_step) from None


def _parts(volume: VolumeFile) -> Iterator[Box]:
    """Iterate over boxes that are cheap to read: stored chunks, or some planes where these are thin."""
    z, y, x = volume.chunk
    return iterate_chunks(volume.shape, (max(z, _PART_VOXELS // max(1, y * x)), y, x))


def _recipe(path: str, frame: postprocess.Frame, settings: SegmentSettings, options: FileOptions) -> dict[str, Any]:
    """Return everything that determines the outputs, JSON-able."""
    facts = registry_facts(settings.model)
    return {
        "input": {"name": Path(path).name, "identity": file_identity(path)},
        "voxel_spacing_angstrom": frame.voxel_spacing_angstrom,
        "model_sha256": model_sha256(settings.model),
        "segment": settings.digest_settings(),
        "components": options.min_voxels if options.components else None,
        **({"registry": facts} if facts else {}),
    }

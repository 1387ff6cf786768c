"""Files in, files out: `segment FILE ...`, without a project."""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.pipeline.files import postprocess as derived
from membrain_cloud.pipeline.files.outputs import SegmentedFile, earlier_outputs, identity, publish, staging
from membrain_cloud.pipeline.models import model_sha256, registry_facts
from membrain_cloud.pipeline.stages.inference import DensitySource, predict_slabs, segmenter, sliding_window
from membrain_cloud.pipeline.stages.output_grid import GridChoice, choose_grids, output_blocks
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.sliding_window import Slab, Statistics, density_statistics
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.volumes.scratch_array import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from membrain_cloud.pipeline.settings import SegmentSettings

# Masks and variances wait in memory up to here, beyond it in files without a name.
_SCRATCH_BYTES = 2**28
_PART_VOXELS = 2**23


@dataclass(frozen=True)
class FileOptions:
    """What `segment FILE` writes, and where.

    scores : write the logits.
    components : number the 26-connected components of at least `min_voxels`, in place of 0 and 1.
    skeleton : write the mask's centred sheet too.
    overwrite : replace what is there, where it was made with other settings or of another file.
    """

    output: str
    voxel_spacing_angstrom: float | None
    scores: bool
    components: bool
    min_voxels: int
    skeleton: bool
    overwrite: bool


def expand(patterns: Sequence[str]) -> list[str]:
    """Files by name or pattern, in the order given; patterns leave out what `segment` and its like have written.

    Raises UsageError for a pattern that nothing fits.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [pattern]
        if glob.has_magic(pattern) and not os.path.exists(pattern):
            fitting = [path for path in sorted(glob.glob(pattern)) if not derived.is_output(path)]
            if not fitting:
                raise UsageError(f"{pattern}: there is no such file", "give an .mrc, .rec, .zarr or .tif volume")
        found.update(dict.fromkeys(fitting))
    return list(found)


def segment_file(
    path: str,
    settings: SegmentSettings,
    options: FileOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentedFile:
    """Segment a volume file of any size; all outputs appear together, when all are whole.

    `<stem>_scores.mrc` (logits, float32), `<stem>_segmented.mrc` (0 and 1, or components), and where asked for
    `<stem>_uncertainty_map.mrc` and `<stem>_segmented_skel.mrc`; `<stem>_segmented.json` says how they were made. They
    have the origin of the input and, unless `segment.output_grid` says otherwise, its voxel spacing.

    progress : told (windows done, windows in all).
    Raises TomogramError, ChunkError, VoxelSpacingError for a bad input; UsageError where other outputs are in the way;
    StorageError where `options.output` cannot be written.
    """
    path = path.removeprefix("file://")
    if "://" not in path and not os.path.exists(path):
        raise UsageError(f"{path}: there is no such file", "give an .mrc, .rec, .zarr or .tif volume")
    if "://" in options.output:
        raise UsageError(f"--output {options.output}: this is no folder here", "give one, and copy the files after")
    planned = _planned(path, settings, options)
    with open_volume_file(path) as volume:
        own = derived.frame_of(volume, options.voxel_spacing_angstrom)
        levels = volume.levels(own.voxel_spacing_angstrom)
        view = choose_grids(settings, levels)
        frame = replace(own, shape=view.output.shape, voxel_spacing_angstrom=view.output.voxel_spacing_angstrom)
        seen = volume.level(levels[view.level]) if view.level else volume
        recipe = _recipe(path, frame, settings, options)
        earlier = earlier_outputs(planned, recipe, overwrite=options.overwrite)
        if earlier is not None:
            return earlier
        with staging(options.output) as folder:
            staged = _moved(planned, folder)
            notes = (*derived.notes_of(volume), *sliding_window(settings, view.source.voxel_spacing_angstrom).notes)
            made = replace(_make(seen, view, frame, settings, options, staged, progress), notes=notes)
            return publish(made, staged, planned, recipe)


def _planned(path: str, settings: SegmentSettings, options: FileOptions) -> SegmentedFile:
    stem = os.path.join(options.output, derived.stem_of(path))
    return SegmentedFile(
        file=path,
        state="done",
        segmented=f"{stem}_segmented.mrc",
        scores=f"{stem}_scores.mrc" if options.scores else None,
        uncertainty_map=f"{stem}_uncertainty_map.mrc" if settings.uncertainty else None,
        skeleton=f"{stem}_segmented_skel.mrc" if options.skeleton else None,
        membrane_voxels=0,
        components=None,
        notes=(),
    )


def _moved(planned: SegmentedFile, folder: str) -> SegmentedFile:
    """The same names in another folder."""
    names = {
        field: os.path.join(folder, os.path.basename(path))
        for field in ("segmented", "scores", "uncertainty_map", "skeleton")
        if (path := getattr(planned, field)) is not None
    }
    return replace(planned, **names)  # type: ignore[arg-type]


def _make(
    volume: VolumeFile,
    view: GridChoice,
    frame: derived.Frame,
    settings: SegmentSettings,
    options: FileOptions,
    names: SegmentedFile,
    progress: Callable[[int, int], None],
) -> SegmentedFile:
    with ScratchSpace(os.path.dirname(names.segmented), memory_bytes=_SCRATCH_BYTES, moved_by="--output") as scratch:
        mask = scratch.array(frame.shape, np.uint8)
        variance = scratch.array(frame.shape, np.float32) if names.uncertainty_map else None
        with contextlib.ExitStack() as stack:
            scores = None
            if names.scores:
                scores = stack.enter_context(frame.writer(names.scores, "float32", overwrite=False))
            for slab in _slabs(volume, view, settings, progress):
                box = Box((slab.start, 0, 0), (slab.start + len(slab.logits), *frame.shape[1:]))
                mask.write(box, scores_above(slab.logits, settings.threshold).astype(np.uint8))
                if scores is not None:
                    scores.write(box, slab.logits)
                if variance is not None:
                    assert slab.variance is not None
                    variance.write(box, slab.variance)
        components = None
        if options.components:
            components = _numbered(frame, names.segmented, mask, options.min_voxels)
            voxels = sum(int(np.count_nonzero(mask.read(box))) for box in derived.planes(frame.shape))
        else:
            voxels = derived.write_mask(frame, names.segmented, mask.read, overwrite=False)
        if names.skeleton:
            derived.write_skeleton(frame, names.skeleton, mask.read, overwrite=False)
        if names.uncertainty_map and variance is not None:
            derived.write_uncertainty(frame, names.uncertainty_map, variance.read, mask.read, overwrite=False)
        return replace(names, membrane_voxels=voxels, components=components)


def _numbered(frame: derived.Frame, path: str, mask: Any, min_voxels: int) -> int:
    """Write the components, and drop from the mask what is too small for one."""
    count = derived.write_components(frame, path, mask.read, min_voxels=min_voxels, overwrite=False)
    with open_volume_file(path) as labels:
        for box in derived.planes(frame.shape):
            mask.write(box, (labels.read(box) != 0).astype(np.uint8))
    return count


def _slabs(
    volume: VolumeFile,
    view: GridChoice,
    settings: SegmentSettings,
    progress: Callable[[int, int], None],
) -> Iterator[Slab]:
    look, shape = sliding_window(settings, view.source.voxel_spacing_angstrom), view.source.shape
    (piece,) = output_blocks(view, look.tiling, view.output.shape)
    total, done = look.tiling.count(shape), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    slabs = predict_slabs(
        settings,
        look,
        segmenter(settings.model, model_sha256(settings.model), settings.effective_precision, settings.compilation),
        DensitySource(volume.read, shape, _statistics(volume), chunk_planes=max(volume.chunk[0], 16)),
        piece.block,
        progress=count,
    )
    return view.regridding.apply(slabs, piece.core)


def _statistics(volume: VolumeFile) -> Statistics:
    try:
        return density_statistics(volume.read(box) for box in _parts(volume))
    except TomogramError as error:
        raise TomogramError(f"{volume.path}: {error.message}", error.next_step) from None


def _parts(volume: VolumeFile) -> Iterator[Box]:
    """Boxes that are cheap to read: stored chunks, or some planes where these are thin."""
    z, y, x = volume.chunk
    return iterate_chunks(volume.shape, (max(z, _PART_VOXELS // max(1, y * x)), y, x))


def _recipe(path: str, frame: derived.Frame, settings: SegmentSettings, options: FileOptions) -> dict[str, Any]:
    """All that decides the outputs, JSON-able."""
    return {
        "input": {"name": os.path.basename(path.rstrip("/")), "identity": identity(path)},
        "voxel_spacing_angstrom": frame.voxel_spacing_angstrom,
        "model_sha256": model_sha256(settings.model),
        "segment": settings.digest_settings(),
        "components": options.min_voxels if options.components else None,
        **({"registry": facts} if (facts := registry_facts(settings.model)) else {}),
    }

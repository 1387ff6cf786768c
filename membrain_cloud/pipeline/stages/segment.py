"""The stage `segment`: tomogram -> mask of membranes, whole or cut into blocks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.pipeline.stages.base import (
    BASE_BYTES,
    WHOLE,
    RunContext,
    Stage,
    TaskContext,
    TaskPart,
    declare_membrane,
    labels_ref,
)
from membrain_cloud.pipeline.stages.inference import (
    DensitySource,
    network_bytes,
    planes_per_read,
    predict_slabs,
    segmenter,
    sliding_window,
    window_forward_flops,
)
from membrain_cloud.pipeline.stages.output_grid import (
    GridChoice,
    OutputBlock,
    choose_grids,
    expected_pyramid,
    output_blocks,
)
from membrain_cloud.pipeline.stages.score_cache import ChunkRowWriter, ScoreCache
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.sliding_window import Slab, Statistics, density_statistics
from membrain_cloud.store.volumes.pyramid import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import SegmentationRef, TomogramRef


class Segment(Stage):
    """Tomogram -> mask of membranes, and on request scores and their uncertainty as copick features.

    A volume above `segment.block_voxels` is cut: `prepare` takes the statistics of the whole tomogram and creates the
    empty mask, `block-0` ... write their own chunks, `finish` adds the pyramid. A smaller one is one task, `whole`,
    which does the three in a row.

    Stored scores have a receipt of their own, whose digest leaves out the threshold: a run with another threshold
    finds them and needs no network.
    """

    name = "segment"
    data_version = 4
    model_task = "segmentation"
    needs_gpu = True
    tomogram_reads = 2  # once for its statistics

    def after(self, settings: Settings) -> Sequence[str]:
        """Return no stage: it reads the tomogram alone."""
        return ()

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the sections `segment` and `input`."""
        return settings.segment.digest_settings() | {"input": settings.input.digest_settings()}

    def model(self, settings: Settings) -> str | None:
        """Return the segmentation model."""
        return settings.segment.model

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether `separate.segmentation` names a segmentation to start from."""
        return settings.separate.segmentation is not None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return the tomogram, as "density".

        Parameters
        ----------
        context : RunContext
            The run.

        Raises
        ------
        ProjectError
            If the run has no tomogram.
        """
        return {"density": context.require_tomogram(self.name)}

    def output(self, context: RunContext) -> SegmentationRef:
        """Return the mask; its voxel spacing follows from `segment.output_grid`.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        SegmentationRef
            The mask, in the stage's session.

        Raises
        ------
        ProjectError
            If the run has no tomogram.
        """
        tomogram = context.require_tomogram(self.name)
        if context.settings.segment.output_grid == "tomogram":
            return labels_ref(context, self.name, tomogram.voxel_spacing_angstrom)
        return labels_ref(context, self.name, _grids(context, tomogram).output.voxel_spacing_angstrom)

    def parts(self, context: RunContext, grid: Grid) -> Sequence[TaskPart]:
        """Return one task, or preparation, blocks and completion for a volume above `segment.block_voxels`.

        Parameters
        ----------
        context : RunContext
            The run.
        grid : Grid
            The run's voxel grid; the grids of source and output are chosen from the tomogram itself.

        Returns
        -------
        sequence of TaskPart
            `whole`, or `prepare`, `block-0` ... and `finish`.
        """
        grids = _grids(context, context.require_tomogram(self.name))
        sliding_window(context.settings.segment, grids.source.voxel_spacing_angstrom)  # refuses unsuitable spacings
        if grids.output.voxels <= context.settings.segment.block_voxels:
            return WHOLE
        chunk = context.project.label_chunk(grids.output, context.settings.output.chunk)
        blocks = segment_blocks(grids, context.settings, chunk)
        # The digest of a block covers all cores: with another cut the chunks are created anew by `prepare`.
        cores = [[block.core.start, block.core.stop] for block in blocks]
        names = tuple(f"block-{block.index}" for block in blocks)
        parts = [TaskPart(name, ("prepare",), [chunk, core]) for name, core in zip(names, cores, strict=True)]
        return [TaskPart("prepare", (), [chunk, cores]), *parts, TaskPart("finish", names)]

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the planes held of density and logits, a row of chunks being written, and the network's maps.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages; the blocks, the windows and the network count.
        """
        own, grids = settings.segment, choose_grids(settings.segment, expected_pyramid(grid))
        edge = sliding_window(own, grids.source.voxel_spacing_angstrom).tiling.reach
        shape, chunk_edge = grids.output.shape, settings.output.chunk
        chunk = (min(chunk_edge, shape[0]), min(chunk_edge, shape[1]), min(chunk_edge, shape[2]))
        halos = (
            tuple(map(max, block.block.halo.shape, block.core.shape))
            for block in segment_blocks(grids, settings, chunk)
        )
        _, height, width = max(halos, key=lambda halo: halo[1] * halo[2])
        held = edge * (9 if own.uncertainty else 1) + edge + 3 * planes_per_read((1, height, width), chunk_edge)
        rows = 2 * chunk[0] * (1 + 2 * (own.scores != "no") + 2 * own.uncertainty)
        return BASE_BYTES + (4 * held + rows) * height * width + network_bytes(own)

    def flops(self, grid: Grid, settings: Settings) -> float:
        """Return the operations of one pass over every window; skipped windows and further mirrors are not foreseen.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages; the windows and the network count.
        """
        windows = sliding_window(settings.segment, grid.voxel_spacing_angstrom)
        return windows.tiling.count(grid.shape) * window_forward_flops(settings.segment, windows.window)

    def declare(self, project: Project, settings: Settings) -> None:
        """Add the object of membranes."""
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Do one part, or all three in a row.

        Parameters
        ----------
        context : TaskContext
            The task, with the tomogram as input.

        Returns
        -------
        mapping of str to Any
            Number of membrane voxels, and what was left out of the tomogram's statistics; of the part `prepare` the
            statistics.
        """
        part = context.task.part
        if part == "prepare":
            return self._prepare(context)
        if part == "finish":
            receipts = context.receipts.parts(context.task.address)
            names = ["prepare", *(f"block-{block.index}" for block in _blocks(context))]
            return self._finish(context, [_receipt(context, receipts, name) for name in names])
        if part != "whole":
            prepared = _receipt(context, context.receipts.parts(context.task.address), "prepare")["counts"]
            return self._block(context, _blocks(context)[int(part.removeprefix("block-"))], prepared)
        prepared = self._prepare(context)
        done = [{"counts": self._block(context, block, prepared)} for block in _blocks(context)]
        return prepared | self._finish(context, done)

    def _prepare(self, context: TaskContext) -> dict[str, Any]:
        """Create the empty mask and scores; count the tomogram's statistics, unless the scores are stored already."""
        density, labels = context.tomogram("density"), context.written_segmentation()
        cache, grids = ScoreCache.for_task(context, self.data_version), _grids(context, context.tomogram("density"))
        # What was written there is about to be wiped, so no receipt of it may stay.
        context.receipts.forget(context.task.address)
        output = context.settings.output
        context.project.create_labels(labels, grids.output, "uint8", output.chunk, output.format)
        if cache.is_complete(context):
            return {"scores": "stored"}
        cache.create(context, grids.output)
        statistics = density_statistics(
            lambda: tomogram_chunks(context.project, density, grids.source, level=grids.level)
        )
        counts = {"scores": "new", "mean": statistics.mean, "std": statistics.std, "voxels": statistics.voxels}
        return counts | ({"notes": list(statistics.notes)} if statistics.notes else {})

    def _block(self, context: TaskContext, block: OutputBlock, prepared: Mapping[str, Any]) -> dict[str, Any]:
        """Write the mask of one block, and its scores where they are new; count the membrane's voxels."""
        cache, labels = ScoreCache.for_task(context, self.data_version), context.written_segmentation()
        is_new, count = prepared["scores"] == "new", 0
        writers: dict[str, Callable[[Box, NDArray[Any]], None]] = {
            "mask": partial(context.project.write_labels, labels)
        }
        for name, ref in (("scores", cache.scores), ("variance", cache.variance)):
            if is_new and ref is not None:
                writers[name] = partial(context.project.write_features, ref)
        planes: Iterable[tuple[NDArray[Any], NDArray[Any] | None]]
        if is_new:
            planes = (
                (cache.encode_scores(slab.logits), cache.encode_variance(slab.variance))
                for slab in self._predict(context, block, prepared)
            )
        else:
            planes = ((scores, None) for scores in cache.read(context, block.core))
        depth = context.project.label_chunk(context.project.grid(labels), context.settings.output.chunk)[0]
        with ChunkRowWriter(block.core, depth, writers) as rows:
            for scores, variance in planes:
                mask = scores_above(scores, context.settings.segment.threshold).astype(np.uint8)
                count += int(np.count_nonzero(mask))
                rows.add({"mask": mask, "scores": scores, "variance": variance})
        return {"membrane_voxels": count}

    def _predict(self, context: TaskContext, block: OutputBlock, prepared: Mapping[str, Any]) -> Iterator[Slab]:
        """Run the network on one block; the slabs have the output's voxels."""
        density, settings = context.tomogram("density"), context.settings.segment
        grids = _grids(context, density)
        network = segmenter(
            settings.model, context.task.model_sha256, settings.effective_precision, settings.compilation
        )
        source = DensitySource(
            lambda box: context.project.read_density(density, box, level=grids.level),
            grids.source.shape,
            Statistics(prepared["mean"], prepared["std"], prepared["voxels"]),
            chunk_planes=context.project.stored_chunk(density, level=grids.level)[0],
        )
        windows = sliding_window(settings, grids.source.voxel_spacing_angstrom)
        slabs = predict_slabs(settings, windows, network, source, block.block, gpu_turn=context.gpu_turn)
        return grids.regridding.apply(slabs, block.core)

    def _finish(self, context: TaskContext, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Add the pyramids and sum the counts; `parts`: receipts of the tasks before in order, or their counts."""
        cache = ScoreCache.for_task(context, self.data_version)
        context.project.finish_labels(context.written_segmentation())
        if not cache.is_complete(context):
            cache.finish(context, parts)
        count = sum(part["counts"].get("membrane_voxels", 0) for part in parts)
        notes = [note for part in parts for note in part["counts"].get("notes", ())]
        counts: dict[str, Any] = {"membrane_voxels": count} | ({"notes": notes} if notes else {})
        return counts | ({} if cache.first is None else {"kept": cache.first.key})


SEGMENT = Segment()


def segment_blocks(grids: GridChoice, settings: Settings, chunk: Zyx) -> list[OutputBlock]:
    """Cut the output into blocks of whole chunks with at most `segment.block_voxels` (at least one chunk).

    The longest edge is halved until that holds: blocks near to cubes need the least halo.

    Parameters
    ----------
    grids : GridChoice
        Grids of source and output.
    settings : Settings
        The settings, for the limit and the windows.
    chunk : tuple of int
        Shape zyx of the output's chunks.

    Returns
    -------
    list of OutputBlock
        The blocks, in order.
    """
    core = list(grids.output.shape)
    while core[0] * core[1] * core[2] > settings.segment.block_voxels:
        # Only an axis of more than one chunk can be cut.
        axes = [axis for axis in range(3) if core[axis] > chunk[axis]]
        if not axes:
            break
        longest = max(axes, key=lambda axis: core[axis])
        core[longest] = chunk[longest] * -(-core[longest] // (2 * chunk[longest]))
    tiling = sliding_window(settings.segment, grids.source.voxel_spacing_angstrom).tiling
    return output_blocks(grids, tiling, (core[0], core[1], core[2]))


def tomogram_chunks(project: Project, density: TomogramRef, grid: Grid, *, level: int = 0) -> Iterator[NDArray[Any]]:
    """Read a tomogram, one stored chunk at a time.

    Parameters
    ----------
    project : Project
        The project.
    density : TomogramRef
        The tomogram.
    grid : Grid
        Grid of the level that is read.
    level : int
        Level of the pyramid. Default: 0, the finest.

    Yields
    ------
    (z, y, x) float32 array
        Densities of a chunk.
    """
    for box in iterate_chunks(grid.shape, project.stored_chunk(density, level=level)):
        yield project.read_density(density, box, level=level)


def _grids(context: RunContext | TaskContext, density: TomogramRef) -> GridChoice:
    """Choose the grids of a tomogram; its pyramid is read only where one of its levels may be taken."""
    project, settings = context.project, context.settings
    if settings.segment.output_grid == "level":
        return choose_grids(settings.segment, project.levels(density))
    return choose_grids(settings.segment, [Level("", project.grid(density), 0.0)])


def _blocks(context: TaskContext) -> list[OutputBlock]:
    """Cut the output of a task, as the plan did."""
    grids = _grids(context, context.tomogram("density"))
    chunk = context.project.label_chunk(grids.output, context.settings.output.chunk)
    return segment_blocks(grids, context.settings, chunk)


def _receipt(context: TaskContext, receipts: Mapping[str, Mapping[str, Any]], part: str) -> Mapping[str, Any]:
    if part not in receipts:
        raise InputError(
            f"{context.task.run}: the receipt of part {part} of the stage segment is missing", "run the command again"
        )
    return receipts[part]

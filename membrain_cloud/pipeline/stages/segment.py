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
from membrain_cloud.store.volumes.ome_zarr import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import SegmentationRef, TomogramRef


class Segment(Stage):
    """Tomogram -> mask of membranes; where asked for, scores and their uncertainty as copick features too.

    A volume above `segment.block_voxels` is cut: `prepare` takes the statistics of the whole tomogram and creates the
    empty mask, `block-0` ... write their own chunks, `finish` adds the pyramid. A smaller one is one task, `whole`,
    which does the three in a row.

    Scores that are kept have a receipt of their own, whose digest leaves out the threshold: a run with
    another threshold finds them and does without the network.
    """

    name = "segment"
    data_version = 3
    model_task = "segmentation"
    needs_gpu = True
    tomogram_reads = 2  # once for its statistics

    def after(self, settings: Settings) -> Sequence[str]:
        return ()

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return settings.segment.digest_settings() | {"input": settings.input.digest_settings()}

    def model(self, settings: Settings) -> str | None:
        return settings.segment.model

    def is_replaced(self, settings: Settings) -> bool:
        return settings.separate.segmentation is not None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {"density": context.require_tomogram(self.name)}

    def output(self, context: RunContext) -> SegmentationRef:
        tomogram = context.require_tomogram(self.name)
        if context.settings.segment.output_grid == "tomogram":
            return labels_ref(context, self.name, tomogram.voxel_spacing_angstrom)
        view = _view(context, tomogram)
        return labels_ref(context, self.name, view.output.voxel_spacing_angstrom)

    def parts(self, context: RunContext, grid: Grid) -> Sequence[TaskPart]:
        view = _view(context, context.require_tomogram(self.name))
        # Refuses what cannot be looked at.
        sliding_window(context.settings.segment, view.source.voxel_spacing_angstrom)
        if view.output.voxels <= context.settings.segment.block_voxels:
            return WHOLE
        chunk = context.project.label_chunk(view.output, context.settings.output.chunk)
        cut = segment_blocks(view, context.settings, chunk)
        # Blocks count for the cut they belong to: their cores, and the preparation that made their chunks.
        cores = [[piece.core.start, piece.core.stop] for piece in cut]
        names = tuple(f"block-{piece.index}" for piece in cut)
        pieces = [TaskPart(name, ("prepare",), [chunk, core]) for name, core in zip(names, cores, strict=True)]
        return [TaskPart("prepare", (), [chunk, cores]), *pieces, TaskPart("finish", names)]

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """The planes held of density and logits, a row of chunks on its way out, and the network's maps."""
        chosen, view = settings.segment, choose_grids(settings.segment, expected_pyramid(grid))
        reach = sliding_window(chosen, view.source.voxel_spacing_angstrom).tiling.reach
        edge, shape = settings.output.chunk, view.output.shape
        chunk = (min(edge, shape[0]), min(edge, shape[1]), min(edge, shape[2]))
        cut = segment_blocks(view, settings, chunk)
        halos = (tuple(map(max, piece.block.halo.shape, piece.core.shape)) for piece in cut)
        _, height, width = max(halos, key=lambda shape: shape[1] * shape[2])
        held = reach * (9 if chosen.uncertainty else 1) + reach + 3 * planes_per_read((1, height, width), edge)
        rows = 2 * chunk[0] * (1 + 2 * (chosen.scores != "no") + 2 * chosen.uncertainty)
        return BASE_BYTES + (4 * held + rows) * height * width + network_bytes(chosen)

    def flops(self, grid: Grid, settings: Settings) -> float:
        """One look at every window: void windows that are skipped, and second looks, are not foreseen."""
        look = sliding_window(settings.segment, grid.voxel_spacing_angstrom)
        return look.tiling.count(grid.shape) * window_forward_flops(settings.segment, look.window)

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        part = context.task.part
        if part == "prepare":
            return self._prepare(context)
        if part == "finish":
            parts = context.receipts.parts(context.task.address)
            names = ["prepare", *(f"block-{piece.index}" for piece in _cut(context))]
            return self._finish(context, [_receipt(context, parts, name) for name in names])
        if part != "whole":
            prepared = _receipt(context, context.receipts.parts(context.task.address), "prepare")["counts"]
            return self._block(context, _cut(context)[int(part.removeprefix("block-"))], prepared)
        prepared = self._prepare(context)
        done = [{"counts": self._block(context, piece, prepared)} for piece in _cut(context)]
        return prepared | self._finish(context, done)

    def _prepare(self, context: TaskContext) -> dict[str, Any]:
        density, labels = context.tomogram("density"), context.written_segmentation()
        kept, view = ScoreCache.of(context, self.data_version), _view(context, context.tomogram("density"))
        # Whatever was written there is about to be wiped, so nothing may vouch for it.
        context.receipts.forget(context.task.address)
        context.project.create_labels(labels, view.output, "uint8", context.settings.output.chunk)
        if kept.are_stored(context):
            return {"scores": "stored"}
        kept.create(context, view.output)
        statistics = density_statistics(tomogram_chunks(context.project, density, view.source, level=view.level))
        return {"scores": "new", "mean": statistics.mean, "std": statistics.std, "voxels": statistics.voxels}

    def _block(self, context: TaskContext, piece: OutputBlock, prepared: Mapping[str, Any]) -> dict[str, Any]:
        kept, labels = ScoreCache.of(context, self.data_version), context.written_segmentation()
        is_new, count = prepared["scores"] == "new", 0
        writers: dict[str, Callable[[Box, NDArray[Any]], None]] = {
            "mask": partial(context.project.write_labels, labels)
        }
        for name, ref in (("scores", kept.scores), ("variance", kept.variance)):
            if is_new and ref is not None:
                writers[name] = partial(context.project.write_features, ref)
        pieces: Iterable[tuple[NDArray[Any], NDArray[Any] | None]]
        if is_new:
            pieces = (
                (kept.encoded(slab.logits), kept.halved(slab.variance))
                for slab in self._looked(context, piece, prepared)
            )
        else:
            pieces = ((scores, None) for scores in kept.read(context, piece.core))
        depth = context.project.label_chunk(context.project.grid(labels), context.settings.output.chunk)[0]
        with ChunkRowWriter(piece.core, depth, writers) as rows:
            for scores, variance in pieces:
                mask = scores_above(scores, context.settings.segment.threshold).astype(np.uint8)
                count += int(np.count_nonzero(mask))
                rows.add({"mask": mask, "scores": scores, "variance": variance})
        return {"membrane_voxels": count}

    def _looked(self, context: TaskContext, piece: OutputBlock, prepared: Mapping[str, Any]) -> Iterator[Slab]:
        density, chosen, view = (
            context.tomogram("density"),
            context.settings.segment,
            _view(context, context.tomogram("density")),
        )
        network = segmenter(chosen.model, context.task.model_sha256, chosen.effective_precision, chosen.compilation)
        slabs = predict_slabs(
            chosen,
            sliding_window(chosen, view.source.voxel_spacing_angstrom),
            network,
            lambda box: context.project.read_density(density, box, level=view.level),
            view.source.shape,
            piece.block,
            statistics=Statistics(prepared["mean"], prepared["std"], prepared["voxels"]),
            chunk_planes=context.project.stored_chunk(density, level=view.level)[0],
            turn=context.gpu_turn,
        )
        return view.regridding.apply(slabs, piece.core)

    def _finish(self, context: TaskContext, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`parts` : receipts of the tasks before this one, in the order of their work, or just their counts."""
        kept = ScoreCache.of(context, self.data_version)
        context.project.finish_labels(context.written_segmentation())
        if not kept.are_stored(context):
            kept.finish(context, parts)
        count = sum(part["counts"].get("membrane_voxels", 0) for part in parts)
        return {"membrane_voxels": count} | ({} if kept.first is None else {"kept": kept.first.key})


def segment_blocks(view: GridChoice, settings: Settings, chunk: Zyx) -> list[OutputBlock]:
    """The pieces of a volume: cores of whole chunks with at most `segment.block_voxels` (at least one chunk).

    The longest edge is halved until that holds: pieces near to cubes need the least halo.
    """
    core = list(view.output.shape)
    while core[0] * core[1] * core[2] > settings.segment.block_voxels:
        # Only an axis of more than one chunk can be cut.
        cuttable = [axis for axis in range(3) if core[axis] > chunk[axis]]
        if not cuttable:
            break
        longest = max(cuttable, key=lambda axis: core[axis])
        core[longest] = chunk[longest] * -(-core[longest] // (2 * chunk[longest]))
    tiling = sliding_window(settings.segment, view.source.voxel_spacing_angstrom).tiling
    return output_blocks(view, tiling, (core[0], core[1], core[2]))


def tomogram_chunks(project: Project, density: TomogramRef, grid: Grid, *, level: int = 0) -> Iterator[NDArray[Any]]:
    """The voxels of a tomogram, or of a level of its pyramid with that grid, a stored chunk at a time."""
    for box in iterate_chunks(grid.shape, project.stored_chunk(density, level=level)):
        yield project.read_density(density, box, level=level)


def _view(place: RunContext | TaskContext, density: TomogramRef) -> GridChoice:
    """How a tomogram is read and written; its pyramid is looked up only where a level of it may be taken."""
    project, settings = place.project, place.settings
    if settings.segment.output_grid == "level":
        return choose_grids(settings.segment, project.levels(density))
    return choose_grids(settings.segment, [Level("", project.grid(density), 0.0)])


def _cut(context: TaskContext) -> list[OutputBlock]:
    view = _view(context, context.tomogram("density"))
    return segment_blocks(
        view, context.settings, context.project.label_chunk(view.output, context.settings.output.chunk)
    )


def _receipt(context: TaskContext, parts: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    if name not in parts:
        raise InputError(f"{context.task.run}: {name} of segment has gone missing", "run again")
    return parts[name]

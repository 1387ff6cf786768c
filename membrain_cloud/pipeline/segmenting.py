"""The stage `segment`: tomogram -> mask of membranes, whole or cut into blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Block, Grid, Zyx, blocks, iterate_chunks
from membrain_cloud.pipeline.settings import SegmentSettings, Settings
from membrain_cloud.pipeline.stage import BASE_BYTES, WHOLE, Desk, Part, Site, Stage, declare_membrane, labels_ref
from membrain_cloud.pipeline.tasks import Ref
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.networks.checkpoints import Segmenter


class Segment(Stage):
    """Tomogram -> mask of membranes.

    A volume above `segment.block_voxels` is cut: `prepare` takes the statistics of the whole tomogram and creates the
    empty mask, `block-0` ... write their own chunks, `finish` adds the pyramid. A smaller one is one task, `whole`,
    which does the three in a row.
    """

    name = "segment"
    needs_gpu = True

    def after(self, settings: Settings) -> Sequence[str]:
        return ()

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        return settings.segment.decisive() | {"input": settings.input.decisive()}

    def model(self, settings: Settings) -> str | None:
        return settings.segment.model

    def is_given(self, settings: Settings) -> bool:
        return settings.separate.segmentation is not None

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        return {"density": site.require_tomogram(self.name)}

    def output(self, site: Site) -> SegmentationRef:
        return labels_ref(site, self.name, site.require_tomogram(self.name).voxel_spacing_angstrom)

    def parts(self, site: Site, grid: Grid) -> Sequence[Part]:
        if grid.voxels <= site.settings.segment.block_voxels:
            return WHOLE
        chunk = site.project.label_chunk(grid, site.settings.output.chunk)
        cut = segment_blocks(grid, site.settings, chunk)
        # Blocks count for the cut they belong to: their cores, and the preparation that made their chunks.
        cores = [[block.core.start, block.core.stop] for block in cut]
        names = tuple(f"block-{block.index}" for block in cut)
        pieces = [Part(name, ("prepare",), [chunk, core]) for name, core in zip(names, cores, strict=True)]
        return [Part("prepare", (), [chunk, cores]), *pieces, Part("finish", names)]

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Density, two accumulators, logits and mask of a block with its halo; and the network's activations."""
        window, channels = model_window(settings.segment), _header(settings.segment.model)["architecture"]["channels"]
        block = min(grid.voxels, settings.segment.block_voxels) + window**3
        # Eight float32 maps of the first level's channels: 4.2 GB for MemBrain-seg's network at 160 voxels.
        return BASE_BYTES + 20 * block + 32 * channels[0] * settings.segment.batch * window**3

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def work(self, desk: Desk) -> Mapping[str, Any]:
        part = desk.task.part
        if part == "prepare":
            return self._prepare(desk)
        if part == "finish":
            return self._finish(desk, [self._receipt(desk, f"block-{block.index}") for block in _cut(desk)])
        if part != "whole":
            return self._block(desk, _cut(desk)[int(part.removeprefix("block-"))], self._receipt(desk, "prepare"))
        prepared = self._prepare(desk)
        return prepared | self._finish(desk, [self._block(desk, block, prepared) for block in _cut(desk)])

    def _prepare(self, desk: Desk) -> dict[str, Any]:
        from membrain_cloud.membranes.segmentation import density_statistics

        density, labels = desk.tomogram("density"), desk.written_segmentation()
        grid = desk.project.grid(density)
        statistics = density_statistics(tomogram_chunks(desk.project, density, grid))
        # Whatever earlier blocks wrote is about to be wiped, so nothing may vouch for it.
        for name in ("prepare", *(f"block-{block.index}" for block in _cut(desk))):
            desk.receipts.remove(_sibling(desk, name))
        desk.project.create_labels(labels, grid, "uint8", desk.settings.output.chunk)
        return {"mean": statistics.mean, "std": statistics.std, "voxels": statistics.voxels}

    def _block(self, desk: Desk, block: Block, prepared: Mapping[str, Any]) -> dict[str, Any]:
        from membrain_cloud.membranes.segmentation import Statistics, segment_block

        density, chosen = desk.tomogram("density"), desk.settings.segment
        logits = segment_block(
            segmenter(chosen.model, desk.task.model_sha256).predict,
            lambda box: desk.project.read_density(density, box),
            desk.project.grid(density).shape,
            block,
            statistics=Statistics(prepared["mean"], prepared["std"], prepared["voxels"]),
            window=model_window(chosen),
            overlap=chosen.window_overlap,
            mirrors=chosen.with_mirrors,
            batch=chosen.batch,
            progress=lambda _: None,
        )
        mask = (logits > chosen.threshold).astype(np.uint8)
        desk.project.write_labels(desk.written_segmentation(), block.core, mask)
        return {"membrane_voxels": int(np.count_nonzero(mask))}

    def _finish(self, desk: Desk, counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        desk.project.finish_labels(desk.written_segmentation())
        return {"membrane_voxels": sum(count["membrane_voxels"] for count in counts)}

    def _receipt(self, desk: Desk, part: str) -> Mapping[str, Any]:
        receipt = desk.receipts.read(_sibling(desk, part))
        if receipt is None:
            raise InputError(f"{desk.task.run}: {part} of segment has gone missing", "run again")
        counts: Mapping[str, Any] = receipt["counts"]
        return counts


def segment_blocks(grid: Grid, settings: Settings, chunk: Zyx) -> list[Block]:
    """The blocks of a volume: cores of whole chunks with at most `segment.block_voxels` (at least one chunk).

    A core takes whole rows first, then whole planes: slabs need the least halo.
    """
    from membrain_cloud.membranes.segmentation import window_stride

    window = model_window(settings.segment)
    core = list(chunk)
    for axis in (2, 1, 0):
        others = math.prod(core) // core[axis]
        fitting = settings.segment.block_voxels // (others * chunk[axis])
        core[axis] = chunk[axis] * max(1, min(fitting, math.ceil(grid.shape[axis] / chunk[axis])))
    stride = window_stride(window, settings.segment.window_overlap)
    return blocks(grid.shape, (core[0], core[1], core[2]), window, stride)


def model_window(settings: SegmentSettings) -> int:
    """The window to use: the one set, which must suit the network, or the one it was made for."""
    header = _header(settings.model)
    multiple = 2 ** (len(header["architecture"]["channels"]) - 1)
    if settings.window is None:
        return int(header["window"])
    if settings.window % multiple:
        raise UsageError(
            f"segment.window = {settings.window}: {settings.model} takes multiples of {multiple}",
            f"try {max(1, round(settings.window / multiple)) * multiple}",
        )
    return settings.window


@functools.lru_cache(maxsize=8)
def _header(model: str) -> Mapping[str, Any]:
    from membrain_cloud.networks.checkpoints import read_header

    return read_header(model)


@functools.lru_cache(maxsize=2)
def segmenter(model: str, sha256: str) -> Segmenter:
    """The network, loaded once a process; on a GPU where there is one."""
    import torch

    from membrain_cloud.networks.checkpoints import load_segmenter

    return load_segmenter(model, device="cuda" if torch.cuda.is_available() else "cpu")


def tomogram_chunks(project: Project, density: TomogramRef, grid: Grid) -> Iterator[NDArray[Any]]:
    """A tomogram's voxels, a part at a time."""
    for box in iterate_chunks(grid.shape, project.label_chunk(grid)):
        yield project.read_density(density, box)


def _cut(desk: Desk) -> list[Block]:
    grid = desk.project.grid(desk.tomogram("density"))
    return segment_blocks(grid, desk.settings, desk.project.label_chunk(grid, desk.settings.output.chunk))


def _sibling(desk: Desk, part: str) -> str:
    """Receipt of another part of the same output."""
    return f"{desk.task.receipt.rpartition('/')[0]}/{part}"

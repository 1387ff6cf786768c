"""Which voxels `segment` reads and which it writes: the tomogram's, those of a level of its pyramid, or the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.errors import VoxelSpacingError
from membrain_cloud.geometry import Block, Box, Grid
from membrain_cloud.pipeline.stages.inference import model_spacing_angstrom
from membrain_cloud.segmentation.regridding import Regridding
from membrain_cloud.store.volumes.ome_zarr import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.settings import SegmentSettings
    from membrain_cloud.tiling import Tiling

# Copick addresses voxel spacings by three decimals.
_DECIMALS = 3


@dataclass(frozen=True)
class GridChoice:
    """level : of the pyramid that is read.  source : its grid.  output : the grid of what is written.
    offset_angstrom : where the source's first voxel lies, on the grid of the tomogram.
    """

    level: int
    source: Grid
    output: Grid
    offset_angstrom: float

    @property
    def regridding(self) -> Regridding:
        if self.source == self.output and self.offset_angstrom == 0:
            return Regridding(self.source.shape, self.source.shape, 1.0, 0.0)
        spacing = self.source.voxel_spacing_angstrom
        ratio = self.output.voxel_spacing_angstrom / spacing
        return Regridding(self.source.shape, self.output.shape, ratio, -self.offset_angstrom / spacing)


@dataclass(frozen=True)
class OutputBlock:
    """A part of the output: `core` in its voxels, and the block of the source that must be looked at for it."""

    index: int
    core: Box
    block: Block


def choose_grids(chosen: SegmentSettings, levels: Sequence[Level]) -> GridChoice:
    """How a tomogram of such levels is segmented. Raises VoxelSpacingError where the output would be absurd."""
    finest = levels[0].grid
    if chosen.output_grid == "tomogram":
        return GridChoice(0, finest, finest, 0.0)
    target = model_spacing_angstrom(chosen)
    if chosen.output_grid == "level":
        away = [abs(math.log(level.grid.voxel_spacing_angstrom / target)) for level in levels]
        nearest = min(range(len(levels)), key=away.__getitem__)
        taken = levels[nearest]
        rounded = Grid(taken.grid.shape, round(taken.grid.voxel_spacing_angstrom, _DECIMALS))
        return GridChoice(nearest, rounded, rounded, taken.offset_angstrom)
    ratio = finest.voxel_spacing_angstrom / target
    z, y, x = (max(1, round(n * ratio)) for n in finest.shape)
    if min(z, y, x) < 8 or ratio > 8:
        raise VoxelSpacingError(
            f"from {finest.voxel_spacing_angstrom:g} Å to the model's {target:g} Å leaves {z} x {y} x {x} voxels",
            "check the voxel spacing, or write the tomogram's own voxels: --set segment.output_grid=tomogram",
        )
    return GridChoice(0, finest, Grid((z, y, x), round(target, _DECIMALS)), 0.0)


def mask_grid(chosen: SegmentSettings, grid: Grid) -> Grid:
    """What the mask of a tomogram of `grid` will lie on, as far as that can be said before its pyramid is seen."""
    return choose_grids(chosen, expected_pyramid(grid)).output


def expected_pyramid(grid: Grid, count: int = 3) -> list[Level]:
    """The pyramid as we and others write it, for a plan of what there will be: each level halves the one before."""
    found = [Level("0", grid, 0.0)]
    for _ in range(1, count):
        z, y, x = (-(-n // 2) for n in found[-1].grid.shape)
        found.append(Level("", Grid((z, y, x), 2 * found[-1].grid.voxel_spacing_angstrom), 0.0))
    return found


def output_blocks(view: GridChoice, tiling: Tiling, core_shape: tuple[int, int, int]) -> list[OutputBlock]:
    """The output cut into cores of `core_shape`, in order."""
    regridding, found = view.regridding, []
    for index, cut in enumerate(tiling.blocks(view.output.shape, core_shape)):
        block = tiling.block(index, view.source.shape, regridding.source_core(cut.core))
        found.append(OutputBlock(index, cut.core, block))
    return found

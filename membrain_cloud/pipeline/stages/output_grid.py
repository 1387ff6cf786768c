"""Choose the voxel grids of `segment`: which pyramid level is read, and on which voxels the mask is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.errors import VoxelSpacingError
from membrain_cloud.geometry import Block, Box, Grid
from membrain_cloud.pipeline.stages.inference import model_spacing_angstrom
from membrain_cloud.segmentation.regridding import Regridding
from membrain_cloud.store.volumes.pyramid import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.settings import SegmentSettings
    from membrain_cloud.tiling import Tiling

# Copick addresses voxel spacings by three decimals.
_DECIMALS = 3


@dataclass(frozen=True)
class GridChoice:
    """The grids of one segmentation.

    Attributes
    ----------
    level : int
        Level of the tomogram's pyramid that is read; 0 is the finest.
    source : Grid
        Grid of that level.
    output : Grid
        Grid of the mask that is written.
    offset_angstrom : float
        Position of the source's first voxel on the tomogram's grid in Å, the same along each axis.
    """

    level: int
    source: Grid
    output: Grid
    offset_angstrom: float

    @property
    def regridding(self) -> Regridding:
        """The resampling from the source grid to the output grid."""
        if self.source == self.output and self.offset_angstrom == 0:
            return Regridding(self.source.shape, self.source.shape, 1.0, 0.0)
        spacing = self.source.voxel_spacing_angstrom
        ratio = self.output.voxel_spacing_angstrom / spacing
        return Regridding(self.source.shape, self.output.shape, ratio, -self.offset_angstrom / spacing)


@dataclass(frozen=True)
class OutputBlock:
    """One block of the output.

    Attributes
    ----------
    index : int
        Number of the block, from 0.
    core : Box
        The block in voxels of the output.
    block : Block
        The block of the source, with its halo, that is predicted for it.
    """

    index: int
    core: Box
    block: Block


def choose_grids(settings: SegmentSettings, levels: Sequence[Level]) -> GridChoice:
    """Choose the grids for a tomogram.

    Parameters
    ----------
    settings : SegmentSettings
        Output grid and model.
    levels : sequence of Level
        The tomogram's pyramid, finest first.

    Returns
    -------
    GridChoice
        The grids.

    Raises
    ------
    VoxelSpacingError
        If the output would have too few or too many voxels.
    """
    finest = levels[0].grid
    if settings.output_grid == "tomogram":
        return GridChoice(0, finest, finest, 0.0)
    target = model_spacing_angstrom(settings)
    if settings.output_grid == "level":
        distances = [abs(math.log(level.grid.voxel_spacing_angstrom / target)) for level in levels]
        index = min(range(len(levels)), key=distances.__getitem__)
        level = levels[index]
        rounded = Grid(level.grid.shape, round(level.grid.voxel_spacing_angstrom, _DECIMALS))
        return GridChoice(index, rounded, rounded, level.offset_angstrom)
    ratio = finest.voxel_spacing_angstrom / target
    z, y, x = (max(1, round(n * ratio)) for n in finest.shape)
    if min(z, y, x) < 8 or ratio > 8:
        raise VoxelSpacingError(
            f"voxel spacing {finest.voxel_spacing_angstrom:g} Å: at the model's {target:g} Å the mask would have "
            f"{z} x {y} x {x} voxels",
            "check the voxel spacing, or write the tomogram's own voxels: segment.output_grid=tomogram",
        )
    return GridChoice(0, finest, Grid((z, y, x), round(target, _DECIMALS)), 0.0)


def mask_grid(settings: SegmentSettings, grid: Grid) -> Grid:
    """Return the grid of a tomogram's mask, as far as it is known before the tomogram's pyramid is read.

    Parameters
    ----------
    settings : SegmentSettings
        Output grid and model.
    grid : Grid
        Grid of the tomogram.

    Returns
    -------
    Grid
        Grid of the mask.
    """
    return choose_grids(settings, expected_pyramid(grid)).output


def expected_pyramid(grid: Grid, count: int = 3) -> list[Level]:
    """Return the usual pyramid of a tomogram, for plans: each level halves the one before.

    Parameters
    ----------
    grid : Grid
        Grid of the finest level.
    count : int
        Number of levels. Default: 3.

    Returns
    -------
    list of Level
        The levels, finest first.
    """
    levels = [Level("0", grid, 0.0)]
    for _ in range(1, count):
        z, y, x = (-(-n // 2) for n in levels[-1].grid.shape)
        levels.append(Level("", Grid((z, y, x), 2 * levels[-1].grid.voxel_spacing_angstrom), 0.0))
    return levels


def output_blocks(grids: GridChoice, tiling: Tiling, core_shape: tuple[int, int, int]) -> list[OutputBlock]:
    """Cut the output into blocks.

    Parameters
    ----------
    grids : GridChoice
        Grids of source and output.
    tiling : Tiling
        Windows over the source.
    core_shape : tuple of int
        Shape zyx of a block's core, in voxels of the output.

    Returns
    -------
    list of OutputBlock
        The blocks, in order.
    """
    regridding = grids.regridding
    blocks = []
    for index, cut in enumerate(tiling.blocks(grids.output.shape, core_shape)):
        block = tiling.block(index, grids.source.shape, regridding.source_core(cut.core))
        blocks.append(OutputBlock(index, cut.core, block))
    return blocks

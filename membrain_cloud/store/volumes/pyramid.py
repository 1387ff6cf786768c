"""Pyramids: the coarser levels of a volume, read from its metadata and made from level 0.

Levels halve each axis, rounding up. A tomogram's level is the mean of 2 x 2 x 2 voxels (of those that exist, at odd
borders). A label volume's level takes every second voxel, which keeps label values and puts voxel i of level k exactly
at i * spacing * 2**k, where copick's convention expects it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import VoxelSpacingError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.store.volumes.multiscales import LEVELS, describe, level_paths, write_attributes
from membrain_cloud.store.volumes.ome_zarr import OmeVersion, output_format
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from membrain_cloud.store.objects.object_store import Files

Reduce = Callable[[NDArray[Any]], NDArray[Any]]
_RATIO_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Level:
    """A level of a pyramid.

    Attributes
    ----------
    path : str
        Its path in the volume.
    grid : Grid
        Shape and voxel spacing.
    offset_angstrom : float
        Position of the centre of its first voxel along each axis, in Å.
    """

    path: str
    grid: Grid
    offset_angstrom: float


def pyramid(files: Files, path: str, attributes: dict[str, Any], finest: Grid) -> list[Level]:
    """Return the levels of a volume, the finest first.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    attributes : dict
        Attributes of its group.
    finest : Grid
        Grid of the finest level.

    Returns
    -------
    list of Level
        Coarser levels are listed up to the first that is absent, or whose metadata do not give its position.
    """
    levels = [Level((level_paths(attributes) or [""])[0], finest, 0.0)]
    with contextlib.suppress(VoxelSpacingError, FileNotFoundError):
        description = describe(attributes, f"{files.url}/{path}")
        described = () if description is None else description.levels
        own, first = (np.array(described[0].scale), np.array(described[0].translation)) if described else (None, None)
        for level in described[1:]:
            ratios = np.array(level.scale) / own
            shift = (np.array(level.translation) - first) / own
            tolerance = _RATIO_TOLERANCE * ratios.max()
            if np.ptp(ratios) > tolerance or np.ptp(shift) > tolerance or ratios[0] <= 1:
                break
            array = ChunkedArray.open(files, f"{path}/{level.path}".lstrip("/"))
            spacing = finest.voxel_spacing_angstrom
            grid = Grid(array.format.shape, round(spacing * float(ratios[0]), 6))
            levels.append(Level(level.path, grid, spacing * float(shift[0])))
    return levels


def finish_volume(files: Files, path: str, spacing_angstrom: float, *, mean: bool) -> None:
    """Write levels 1 and 2 from level 0, chunk by chunk, then announce all three.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    spacing_angstrom : float
        Voxel spacing of level 0 in Å.
    mean : bool
        Whether a coarser voxel is the mean of 2 x 2 x 2 voxels, or every second voxel.

    Raises
    ------
    FileNotFoundError
        If there is no level 0.
    ChunkError
        If a chunk of level 0 is absent.
    """
    reduce = local_mean if mean else every_second
    source = ChunkedArray.open(files, f"{path}/0")
    edge = max(source.format.shard)
    version: OmeVersion = "0.4" if source.format.zarr_format == 2 else "0.5"
    for level in range(1, LEVELS):
        z, y, x = (-(-n // 2) for n in source.format.shape)
        coarse = output_format((z, y, x), edge, source.format.dtype, version)
        target = ChunkedArray.create(files, f"{path}/{level}", coarse)
        for box in iterate_chunks(coarse.shape, coarse.shard):
            target.write(box, _reduced(source, box, reduce))
        source = target
    zarr_format = source.format.zarr_format
    write_attributes(files, path, spacing_angstrom, levels=LEVELS, centred=mean, zarr_format=zarr_format)


def _reduced(source: ChunkedArray, box: Box, reduce: Reduce) -> NDArray[Any]:
    """Return a box of the coarser level, from source boxes of at most about one chunk each, to bound the memory."""
    out = np.empty(box.shape, source.format.dtype.newbyteorder("="))
    half = max(1, max(source.format.chunk) // 2)
    for relative in iterate_chunks(box.shape, (half, half, half)):
        z, y, x = (2 * (a + b) for a, b in zip(box.start, relative.start, strict=True))
        end_z, end_y, end_x = (
            min(2 * (a + b), n) for a, b, n in zip(box.start, relative.stop, source.format.shape, strict=True)
        )
        out[relative.slices] = reduce(source.read(Box((z, y, x), (end_z, end_y, end_x))))
    return out


def every_second(array: NDArray[Any]) -> NDArray[Any]:
    """Halve each axis by taking the voxels with even indices, so label values stay label values.

    Parameters
    ----------
    array : ndarray, shape (Z, Y, X), any dtype
        Labels.

    Returns
    -------
    ndarray, shape (ceil(Z / 2), ceil(Y / 2), ceil(X / 2)), dtype of `array`
        A view.
    """
    return array[::2, ::2, ::2]


def local_mean(array: NDArray[Any]) -> NDArray[Any]:
    """Halve each axis by the mean of 2 x 2 x 2 voxels; at an odd end, of the voxels that exist.

    Parameters
    ----------
    array : ndarray, shape (Z, Y, X), any real dtype
        Densities.

    Returns
    -------
    ndarray, shape (ceil(Z / 2), ceil(Y / 2), ceil(X / 2)), dtype of `array`
        Means, computed in float32 (float64 for float64); rounded for integer types.
    """
    work = array if array.dtype == np.float64 else array.astype(np.float32)
    work = np.pad(work, [(0, n % 2) for n in array.shape], mode="edge")
    for axis in range(3):
        even, odd = (np.take(work, range(first, work.shape[axis], 2), axis) for first in (0, 1))
        work = 0.5 * (even + odd)
    return (work if array.dtype.kind == "f" else np.rint(work)).astype(array.dtype)

"""OME-Zarr volumes (0.4 and 0.5): one array per level, three levels, axes zyx in ångström.

How volumes are opened and created, and which voxel spacing they have. `multiscales` reads and writes the metadata of
their groups, `pyramid` makes the coarser levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from membrain_cloud.errors import ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Zyx
from membrain_cloud.store.volumes.array_format import METADATA_NAMES, ArrayFormat
from membrain_cloud.store.volumes.multiscales import (
    describe,
    has_every_chunk,
    level_paths,
    read_attributes,
    read_group,
    write_attributes,
)
from membrain_cloud.store.volumes.zarr_array import ChunkedArray
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from membrain_cloud.store.objects.object_store import Files

DEFAULT_CHUNK = 256
"""Edge of the chunks that are written, in voxels."""
OmeVersion = Literal["0.4", "0.5"]
"""Versions of OME-Zarr that are written: 0.4 as Zarr 2, 0.5 as Zarr 3 with shards."""
_LARGEST_INNER_CHUNK = 128
DENSITY_TYPES = ("int8", "int16", "uint8", "uint16", "float16", "float32", "float64")
"""Data types of tomograms."""
SMALLEST_SPACING_ANGSTROM, LARGEST_SPACING_ANGSTROM = 0.5, 100.0

# How far the spacing in the metadata may be from the one in the volume's name (three decimals, often rounded).
_SPACING_TOLERANCE = 0.005
_ANGSTROM = {"angstrom": 1.0, "nanometer": ANGSTROM_PER_NM, "micrometer": 1e4, "picometer": 0.01, "meter": 1e10}
_ANGSTROM |= {"millimeter": 1e7, "Å": 1.0, "A": 1.0, "angstroms": 1.0, "ångström": 1.0, "nm": ANGSTROM_PER_NM}
_ANGSTROM |= {"nanometers": ANGSTROM_PER_NM, "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4, "pm": 0.01, "mm": 1e7}


def chunk_shape(shape: Zyx, edge: int = DEFAULT_CHUNK) -> Zyx:
    """Return the shape of the chunks of a volume.

    Parameters
    ----------
    shape : tuple of 3 ints
        Shape of the volume, zyx.
    edge : int
        Edge of the chunks in voxels. Default: 256.
    """
    z, y, x = (min(edge, n) for n in shape)
    return z, y, x


def output_format(shape: Zyx, edge: int, dtype: np.dtype[Any], version: OmeVersion) -> ArrayFormat:
    """Return the format of an array that this package writes, in objects of `edge` voxels along each axis.

    Parameters
    ----------
    shape : tuple of 3 ints
        Shape of the array, zyx.
    edge : int
        Edge of the stored objects in voxels, the unit of a task's write: chunks of 0.4, shards of 0.5.
    dtype : numpy.dtype
        Data type.
    version : {"0.4", "0.5"}
        Version of OME-Zarr.
    """
    if version == "0.4":
        return ArrayFormat.plain(shape, chunk_shape(shape, edge), dtype)
    inner = edge
    while inner % 2 == 0 and (inner == edge or inner > _LARGEST_INNER_CHUNK):
        inner //= 2
    z, y, x = chunk_shape(shape, inner)
    shard_z, shard_y, shard_x = (min(-(-n // inner) * inner, edge) if n > inner else n for n in shape)
    return ArrayFormat.plain(shape, (z, y, x), dtype, zarr_format=3, shard=(shard_z, shard_y, shard_x))


def open_volume(files: Files, path: str, *, sparse: bool) -> tuple[ChunkedArray, dict[str, Any]]:
    """Open an OME-Zarr volume, or a plain array.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    sparse : bool
        Whether an absent chunk means the fill value, except in volumes that this package wrote.

    Returns
    -------
    array : ChunkedArray
        The finest level.
    attributes : dict
        Attributes of the group; empty for a plain array.

    Raises
    ------
    ProjectError
        If there is no volume.
    TomogramError
        If the array is not a volume of numbers, or a codec is not installed.
    ChunkError
        If the metadata are torn.
    """
    group = read_group(files, path)
    attributes = group.attributes
    sparse = sparse and not has_every_chunk(attributes)
    for level in (level_paths(attributes) or ["0"])[0], "":
        try:
            array = ChunkedArray.open(
                files, f"{path}/{level}".rstrip("/"), sparse=sparse, zarr_format=group.zarr_format
            )
        except FileNotFoundError:
            continue
        if not attributes and read_attributes(files, path):  # it was created anew between the two reads
            return open_volume(files, path, sparse=sparse)
        return array, attributes
    raise ProjectError(f"{files.url}/{path}: there is no volume", "check the name, or write the volume first")


def create_volume(
    files: Files, path: str, grid: Grid, dtype: str, chunk: int = DEFAULT_CHUNK, version: OmeVersion = "0.4"
) -> ChunkedArray:
    """Create an empty volume in place of any earlier one, with level 0 announced.

    The array is removed first and written last. A concurrent reader therefore finds no array, or one whose attributes
    say that every chunk is written, so that an absent chunk is an error and never zeros.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    grid : Grid
        Shape and voxel spacing.
    dtype : str
        NumPy's name of the data type.
    chunk : int
        Edge of the chunks of 0.4, or of the shards of 0.5, in voxels. Default: 256.
    version : {"0.4", "0.5"}
        Version of OME-Zarr. Default: 0.4.

    Returns
    -------
    ChunkedArray
        Level 0.
    """
    for name in METADATA_NAMES.values():
        files.remove_object(f"{path}/0/{name}")
    files.remove(path)
    array_format = output_format(grid.shape, chunk, np.dtype(dtype), version)
    zarr_format = array_format.zarr_format
    if zarr_format == 2:
        files.write(f"{path}/.zgroup", b'{\n    "zarr_format": 2\n}')
    write_attributes(files, path, grid.voxel_spacing_angstrom, levels=1, centred=False, zarr_format=zarr_format)
    return ChunkedArray.create(files, f"{path}/0", array_format)


def check_density_type(array: ChunkedArray, what: str) -> None:
    """Raise TomogramError if the data type of an array is not one of a tomogram.

    Parameters
    ----------
    array : ChunkedArray
        The array.
    what : str
        The volume, for the message.
    """
    if array.format.dtype.newbyteorder("=").name not in DENSITY_TYPES:
        raise TomogramError(
            f"{what}: data type {array.format.dtype} is not one of a tomogram ({', '.join(DENSITY_TYPES)})",
            "convert it to float32; a label volume is given as a segmentation",
        )


def grid_of(array: ChunkedArray, attributes: dict[str, Any], named_spacing: float, what: str) -> Grid:
    """Return the grid of a volume, with the voxel spacing of its metadata.

    Parameters
    ----------
    array : ChunkedArray
        The finest level.
    attributes : dict
        Attributes of the group. A spacing of 1, which programs write that know none, is ignored.
    named_spacing : float
        Voxel spacing in the volume's name, in Å.
    what : str
        The volume, for error messages.

    Raises
    ------
    VoxelSpacingError
        If metadata and name contradict each other, or the spacing is out of range.
    """
    spacing = spacing_from_attributes(attributes, what)
    if spacing is None or spacing == 1.0:
        spacing = named_spacing
    if abs(spacing - named_spacing) > _SPACING_TOLERANCE * named_spacing + 0.0005:
        raise VoxelSpacingError(
            f"{what}: its name says {named_spacing:g} Å a voxel, its metadata {spacing:g} Å",
            "correct the one that is wrong: the scale in .zattrs or the folder's name",
        )
    if not SMALLEST_SPACING_ANGSTROM <= spacing <= LARGEST_SPACING_ANGSTROM:
        raise VoxelSpacingError(
            f"{what}: a voxel spacing of {spacing:g} Å is absurd for a tomogram",
            "import it again with the right voxel spacing",
        )
    return Grid(array.format.shape, spacing)


def spacing_from_attributes(attributes: dict[str, Any], what: str) -> float | None:
    """Return the voxel spacing in Å from the multiscales metadata.

    Parameters
    ----------
    attributes : dict
        Attributes of the group.
    what : str
        The volume, for error messages.

    Returns
    -------
    float or None
        None if the metadata give none.

    Raises
    ------
    VoxelSpacingError
        If the voxels are not cubes, the unit is unknown, or the metadata are not valid.
    """
    description = describe(attributes, what)
    if description is None:
        return None
    units = [unit or "angstrom" for unit in description.units]
    in_angstrom = np.array([_ANGSTROM.get(unit, math.nan) for unit in units])
    spacing = np.array(description.levels[0].scale) * in_angstrom
    if not np.isfinite(spacing).all():
        raise VoxelSpacingError(f"{what}: unit {units[0]!r} of its axes is not known", "write the axes in angstrom")
    if np.ptp(spacing) > _SPACING_TOLERANCE * spacing.max():
        raise VoxelSpacingError(
            f"{what}: the voxels are not cubes ({', '.join(f'{s:g}' for s in spacing)} Å)",
            "resample it to cubic voxels",
        )
    return float(spacing[0])


def checked_spacing(spacing_angstrom: float | None, what: str, setting: str) -> float:
    """Return a voxel spacing in Å that a tomogram can have.

    Parameters
    ----------
    spacing_angstrom : float or None
        The voxel spacing in Å; None: unknown.
    what : str
        The volume, for error messages.
    setting : str
        The setting or parameter that gives the spacing, for error messages.

    Raises
    ------
    VoxelSpacingError
        If the spacing is unknown, or out of range (0.5 to 100 Å).
    """
    if spacing_angstrom is None:
        raise VoxelSpacingError(f"{what}: no plausible voxel spacing", f"give it in Å: {setting}")
    if not SMALLEST_SPACING_ANGSTROM <= spacing_angstrom <= LARGEST_SPACING_ANGSTROM:
        raise VoxelSpacingError(
            f"{what}: a voxel spacing of {spacing_angstrom:g} Å is absurd for a tomogram",
            f"give it in Å: {setting}",
        )
    return spacing_angstrom

"""OME-Zarr volumes (0.4 and 0.5): one array per level, three levels, axes zyx in ångström.

How volumes are opened and created, and what their metadata say. `pyramid` makes the coarser levels.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from membrain_cloud.errors import ChunkError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Zyx
from membrain_cloud.store.volumes.array_format import METADATA_NAMES, ArrayFormat
from membrain_cloud.store.volumes.zarr_array import ChunkedArray
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

DEFAULT_CHUNK = 256
"""Edge of the chunks that are written, in voxels."""
LEVELS = 3
"""Number of levels of the volumes that are written."""
DENSITY_TYPES = ("int8", "int16", "uint8", "uint16", "float16", "float32", "float64")
"""Data types of tomograms."""
SMALLEST_SPACING_ANGSTROM, LARGEST_SPACING_ANGSTROM = 0.5, 100.0

# How far the spacing in the metadata may be from the one in the volume's name (three decimals, often rounded).
_SPACING_TOLERANCE = 0.005
_ANGSTROM = {"angstrom": 1.0, "nanometer": ANGSTROM_PER_NM, "micrometer": 1e4, "picometer": 0.01, "meter": 1e10}
# A key of the attributes of volumes that this package wrote: every chunk is written, so an absent one is a fault.
_OURS = "membrain_cloud"


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
    sparse = sparse and not attributes.get(_OURS, {}).get("every_chunk_written", False)
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
    files: Files, path: str, grid: Grid, dtype: str, chunk: int = DEFAULT_CHUNK, *, zarr_format: int = 2
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
        Edge of the chunks in voxels. Default: 256.
    zarr_format : {2, 3}
        Version of Zarr: 2 for OME-Zarr 0.4, 3 for 0.5. Default: 2.

    Returns
    -------
    ChunkedArray
        Level 0.
    """
    for name in METADATA_NAMES.values():
        files.remove_object(f"{path}/0/{name}")
    files.remove(path)
    array_format = ArrayFormat.plain(
        grid.shape, chunk_shape(grid.shape, chunk), np.dtype(dtype), zarr_format=zarr_format
    )
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


# --- attributes ----------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """The metadata of a volume's group.

    Attributes
    ----------
    zarr_format : int or None
        Version of Zarr, or None if neither version describes a volume.
    attributes : dict
        Its attributes, `multiscales` among them for 0.4 and 0.5 alike; empty if there are none.
    """

    zarr_format: int | None
    attributes: dict[str, Any]


def read_group(files: Files, path: str) -> Group:
    """Return the metadata of a volume's group.

    A folder may hold metadata of both versions: a program for one of them has read or written where a volume of the
    other one is. The version that describes the multiscales counts; version 3 if both do, as zarr decides it.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the group.

    Raises
    ------
    ChunkError
        If they are torn.
    """
    old = _read_json(files, path, ".zattrs")
    if is_ours(old):  # creating a volume removes what was there
        return Group(2, old)
    attributes = _read_json(files, path, "zarr.json").get("attributes") or {}
    new = attributes | attributes.get("ome", {})
    for zarr_format, found in ((3, new), (2, old)):
        if "multiscales" in found:
            return Group(zarr_format, found)
    return Group(None, old)


def _read_json(files: Files, path: str, name: str) -> dict[str, Any]:
    try:
        text = files.read(f"{path}/{name}".lstrip("/"))
    except FileNotFoundError:
        return {}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ChunkError(f"{files.url}/{path}: {name} is torn ({error})", "copy the volume again") from error


def read_attributes(files: Files, path: str) -> dict[str, Any]:
    """Return the attributes of a group; see `read_group`.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the group.

    Returns
    -------
    dict
        Empty if there are none.

    Raises
    ------
    ChunkError
        If they are torn.
    """
    return read_group(files, path).attributes


def write_attributes(
    files: Files, path: str, spacing_angstrom: float, *, levels: int, centred: bool, zarr_format: int = 2
) -> None:
    """Write the attributes of a volume.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    spacing_angstrom : float
        Voxel spacing of level 0 in Å.
    levels : int
        Number of levels to announce.
    centred : bool
        Whether coarser voxels are means, whose centres are between those of the finer ones.
    zarr_format : {2, 3}
        Version of Zarr. Default: 2.
    """
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = []
    for level in range(levels):
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [spacing_angstrom * 2**level] * 3}]
        if centred and level:  # the mean of voxels 2i and 2i + 1 is centred between them
            transforms.append({"type": "translation", "translation": [spacing_angstrom * (2**level - 1) / 2] * 3})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {"name": "/", "axes": axes, "datasets": datasets}
    ours = {_OURS: {"every_chunk_written": True}}
    content: dict[str, Any]
    if zarr_format == 2:
        name, content = ".zattrs", {"multiscales": [{"version": "0.4"} | multiscale]} | ours
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}} | ours
        name, content = "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    files.write(f"{path}/{name}", json.dumps(content, indent=4).encode())


def is_ours(attributes: dict[str, Any]) -> bool:
    """Return whether this package wrote a volume with these attributes.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    return _OURS in attributes


def is_finished(attributes: dict[str, Any]) -> bool:
    """Return whether the attributes announce all levels.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    return len(level_paths(attributes)) == LEVELS


def level_paths(attributes: dict[str, Any]) -> list[str]:
    """Return the paths of the levels that the attributes announce, the finest first.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    try:
        return [str(dataset["path"]).strip("/") for dataset in attributes["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError):
        return []


def from_level(attributes: dict[str, Any], level: str) -> dict[str, Any] | None:
    """Return the attributes of a volume as if a coarser level were its finest.

    Parameters
    ----------
    attributes : dict
        Attributes of the group.
    level : str
        Path of the level.

    Returns
    -------
    dict or None
        None if the attributes do not announce the level.
    """
    names = level_paths(attributes)
    if level not in names:
        return None
    multiscale = dict(attributes["multiscales"][0])
    multiscale["datasets"] = multiscale["datasets"][names.index(level) :]
    return attributes | {"multiscales": [multiscale]}


def scales(entry: dict[str, Any]) -> list[list[float]]:
    """Return the scales among the coordinate transformations of a dataset or of a multiscale.

    Parameters
    ----------
    entry : dict
        The dataset or multiscale, as OME-Zarr's metadata have it.
    """
    return _transforms(entry, "scale")


def translation(entry: dict[str, Any]) -> NDArray[np.float64]:
    """Return the translation of a dataset, shape (3,), zyx; zeros if it has none.

    Parameters
    ----------
    entry : dict
        The dataset, as OME-Zarr's metadata have it.
    """
    return np.array((_transforms(entry, "translation") or [[0.0] * 3])[0][-3:])


def _transforms(entry: dict[str, Any], kind: str) -> list[list[float]]:
    return [
        [float(s) for s in transform[kind]]
        for transform in entry.get("coordinateTransformations", ())
        if transform.get("type") == kind
    ]


# --- voxel spacing -------------------------------------------------------------------------------------------------


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
        If the voxels are not cubes, or the unit is unknown.
    """
    try:
        multiscale = attributes["multiscales"][0]
        factors = scales(multiscale) + scales(multiscale["datasets"][0])
        units = [axis.get("unit", "angstrom") for axis in multiscale["axes"]][-3:]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if not factors:
        return None
    in_angstrom = np.array([_ANGSTROM.get(unit, math.nan) for unit in units])
    spacing = np.prod([factor[-3:] for factor in factors], axis=0) * in_angstrom
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

"""OME-Zarr 0.4 volumes: one array a level, three levels, axes zyx in ångström.

Pyramid levels halve each axis, rounding up. A tomogram's level is the mean of 2 x 2 x 2 voxels (of the ones that
exist, at odd borders); a label volume's level takes every second voxel, which keeps label values and puts voxel i of
level k exactly at i * spacing * 2**k, where copick's convention expects it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import ChunkError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.store.volumes.zarr_array import ArrayFormat, ChunkedArray

if TYPE_CHECKING:
    from membrain_cloud.store.objects.object_store import Files

DEFAULT_CHUNK = 256
LEVELS = 3
DENSITY_TYPES = ("int8", "int16", "uint8", "uint16", "float16", "float32", "float64")
SMALLEST_SPACING_ANGSTROM, LARGEST_SPACING_ANGSTROM = 0.5, 100.0

# How far the spacing in the metadata may be from the one in the volume's name (three decimals, often rounded).
_SPACING_TOLERANCE = 0.005
_ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4, "picometer": 0.01, "meter": 1e10}
# Our mark in a volume's attributes: every chunk is written, so an absent one is a fault and not the fill value.
_OURS = "membrain_cloud"

Reduce = Callable[[NDArray[Any]], NDArray[Any]]


def chunk_shape(shape: Zyx, edge: int = DEFAULT_CHUNK) -> Zyx:
    z, y, x = (min(edge, n) for n in shape)
    return z, y, x


def read_attributes(files: Files, path: str) -> dict[str, Any]:
    """The group's attributes; empty where there are none. ChunkError for torn JSON."""
    try:
        text = files.read(f"{path}/.zattrs".lstrip("/"))
    except FileNotFoundError:
        return {}
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise ChunkError(f"{files.url}/{path}: .zattrs is torn ({error})", "copy the volume again") from error


def open_volume(files: Files, path: str, *, sparse: bool) -> tuple[ChunkedArray, dict[str, Any]]:
    """Level 0 and the attributes of an OME-Zarr volume, or of a plain array.

    `sparse` allows absent chunks, except in volumes that we wrote ourselves.
    """
    attributes = read_attributes(files, path)
    sparse = sparse and not attributes.get(_OURS, {}).get("every_chunk_written", False)
    for level in (level_paths(attributes) or ["0"])[0], "":
        try:
            array = ChunkedArray.open(files, f"{path}/{level}".rstrip("/"), sparse=sparse)
        except FileNotFoundError:
            continue
        if not attributes and read_attributes(files, path):  # it was made anew while we looked
            return open_volume(files, path, sparse=sparse)
        return array, attributes
    if files.exists(f"{path}/zarr.json"):
        raise TomogramError(
            f"{files.url}/{path}: Zarr version 3 cannot be read", "convert it to OME-Zarr 0.4 (Zarr version 2)"
        )
    raise ProjectError(f"{files.url}/{path}: there is no volume", "check the name, or write the volume first")


def level_paths(attributes: dict[str, Any]) -> list[str]:
    try:
        return [str(dataset["path"]).strip("/") for dataset in attributes["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError):
        return []


def spacing_from_attributes(attributes: dict[str, Any], what: str) -> float | None:
    """Voxel spacing in Å from the multiscales metadata; None where it is not said.

    VoxelSpacingError for voxels that are not cubes and for unknown units.
    """
    try:
        multiscale = attributes["multiscales"][0]
        scales = _scales(multiscale) + _scales(multiscale["datasets"][0])
        units = [axis.get("unit", "angstrom") for axis in multiscale["axes"]][-3:]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if not scales:
        return None
    factors = np.array([_ANGSTROM.get(unit, math.nan) for unit in units])
    spacing = np.prod([scale[-3:] for scale in scales], axis=0) * factors
    if not np.isfinite(spacing).all():
        raise VoxelSpacingError(f"{what}: unit {units[0]!r} of its axes is not known", "write the axes in angstrom")
    if np.ptp(spacing) > _SPACING_TOLERANCE * spacing.max():
        raise VoxelSpacingError(
            f"{what}: the voxels are not cubes ({', '.join(f'{s:g}' for s in spacing)} Å)",
            "resample it to cubic voxels",
        )
    return float(spacing[0])


@dataclass(frozen=True)
class Level:
    """A level of a pyramid: its name in the volume, its grid, and where its first voxel's centre lies (Å)."""

    path: str
    grid: Grid
    offset_angstrom: float


def pyramid(files: Files, path: str, attributes: dict[str, Any], finest: Grid) -> list[Level]:
    """The levels of a volume, the finest first; coarser ones as far as they are there and say where they lie."""
    found = [Level((level_paths(attributes) or [""])[0], finest, 0.0)]
    with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError, FileNotFoundError):
        datasets = attributes["multiscales"][0]["datasets"]
        own, first = _scales(datasets[0])[0][-3:], _translation(datasets[0])
        for dataset in datasets[1:]:
            ratios = np.array(_scales(dataset)[0][-3:]) / own
            shift = (_translation(dataset) - first) / own
            if np.ptp(ratios) > 1e-3 * ratios.max() or np.ptp(shift) > 1e-3 * ratios.max() or ratios[0] <= 1:
                break
            array = ChunkedArray.open(files, f"{path}/{str(dataset['path']).strip('/')}".lstrip("/"))
            spacing = finest.voxel_spacing_angstrom
            grid = Grid(array.format.shape, round(spacing * float(ratios[0]), 6))
            found.append(Level(str(dataset["path"]).strip("/"), grid, spacing * float(shift[0])))
    return found


def from_level(attributes: dict[str, Any], level: str) -> dict[str, Any] | None:
    """The attributes of a volume as if `level` were its finest; None where they do not name it."""
    names = level_paths(attributes)
    if level not in names:
        return None
    multiscale = dict(attributes["multiscales"][0])
    multiscale["datasets"] = multiscale["datasets"][names.index(level) :]
    return attributes | {"multiscales": [multiscale]}


def _scales(entry: dict[str, Any]) -> list[list[float]]:
    return _transforms(entry, "scale")


def _translation(entry: dict[str, Any]) -> NDArray[np.float64]:
    return np.array((_transforms(entry, "translation") or [[0.0] * 3])[0][-3:])


def _transforms(entry: dict[str, Any], kind: str) -> list[list[float]]:
    return [
        [float(s) for s in transform[kind]]
        for transform in entry.get("coordinateTransformations", ())
        if transform.get("type") == kind
    ]


def grid_of(array: ChunkedArray, attributes: dict[str, Any], named_spacing: float, what: str) -> Grid:
    """The grid, its spacing from the metadata, checked against the one in the volume's name."""
    spacing = spacing_from_attributes(attributes, what)
    if spacing is None or spacing == 1.0:  # tools that know no spacing write a scale of 1
        spacing = named_spacing
    if abs(spacing - named_spacing) > _SPACING_TOLERANCE * named_spacing + 0.0005:
        raise VoxelSpacingError(
            f"{what}: its name says {named_spacing:g} Å a voxel, its metadata {spacing:g} Å",
            "correct the one that is wrong: the scale in .zattrs or the folder's name",
        )
    if not SMALLEST_SPACING_ANGSTROM <= spacing <= LARGEST_SPACING_ANGSTROM:
        raise VoxelSpacingError(
            f"{what}: a voxel spacing of {spacing:g} Å is absurd for a tomogram", "import it again with --voxel-spacing"
        )
    return Grid(array.format.shape, spacing)


def checked_spacing(spacing_angstrom: float | None, what: str, option: str) -> float:
    """VoxelSpacingError where it is not known, or no tomogram has such voxels."""
    if spacing_angstrom is None:
        raise VoxelSpacingError(f"{what}: no believable voxel spacing", f"give it in Å: {option}")
    if not SMALLEST_SPACING_ANGSTROM <= spacing_angstrom <= LARGEST_SPACING_ANGSTROM:
        raise VoxelSpacingError(
            f"{what}: a voxel spacing of {spacing_angstrom:g} Å is absurd for a tomogram", f"give it in Å: {option}"
        )
    return spacing_angstrom


def check_density_type(array: ChunkedArray, what: str) -> None:
    if array.format.dtype.newbyteorder("=").name not in DENSITY_TYPES:
        raise TomogramError(
            f"{what}: data type {array.format.dtype} is not one of a tomogram ({', '.join(DENSITY_TYPES)})",
            "convert it to float32; a label volume is given as a segmentation",
        )


def create_volume(files: Files, path: str, grid: Grid, dtype: str, chunk: int = DEFAULT_CHUNK) -> ChunkedArray:
    """An empty volume in place of any earlier one, with level 0 announced.

    The array goes first and comes last: whoever reads meanwhile finds none, or one whose attributes say that every
    chunk is written, so that one that is not there yet is an error and never zeros.
    """
    files.remove_object(f"{path}/0/.zarray")
    files.remove(path)
    shape = chunk_shape(grid.shape, chunk)
    files.write(f"{path}/.zgroup", b'{\n    "zarr_format": 2\n}')
    files.write(f"{path}/.zattrs", _attributes(grid.voxel_spacing_angstrom, levels=1, centred=False))
    return ChunkedArray.create(files, f"{path}/0", ArrayFormat.plain(grid.shape, shape, np.dtype(dtype)))


def finish_volume(files: Files, path: str, spacing: float, *, mean: bool) -> None:
    """Write levels 1 and 2 from level 0, chunk by chunk, then announce all three."""
    reduce = local_mean if mean else every_second
    source = ChunkedArray.open(files, f"{path}/0")
    edge = max(source.format.chunk)
    for level in range(1, LEVELS):
        z, y, x = (-(-n // 2) for n in source.format.shape)
        form = ArrayFormat.plain((z, y, x), chunk_shape((z, y, x), edge), source.format.dtype)
        target = ChunkedArray.create(files, f"{path}/{level}", form)
        for box in iterate_chunks(form.shape, form.chunk):
            target.write(box, _reduced(source, box, reduce))
        source = target
    files.write(f"{path}/.zattrs", _attributes(spacing, levels=LEVELS, centred=mean))


def is_ours(attributes: dict[str, Any]) -> bool:
    """Whether this package wrote the volume."""
    return _OURS in attributes


def is_finished(attributes: dict[str, Any]) -> bool:
    return len(level_paths(attributes)) == LEVELS


def _reduced(source: ChunkedArray, box: Box, reduce: Reduce) -> NDArray[Any]:
    """One chunk of a level, made of source boxes of at most about one chunk each, to bound the memory."""
    out = np.empty(box.shape, source.format.dtype.newbyteorder("="))
    half = max(1, max(source.format.chunk) // 2)
    for relative in iterate_chunks(box.shape, (half, half, half)):
        start = tuple(2 * (a + b) for a, b in zip(box.start, relative.start, strict=True))
        stop = tuple(min(2 * (a + b), n) for a, b, n in zip(box.start, relative.stop, source.format.shape, strict=True))
        out[relative.slices] = reduce(source.read(Box(start, stop)))  # type: ignore[arg-type]
    return out


def every_second(array: NDArray[Any]) -> NDArray[Any]:
    """Halve each axis by taking the voxels with even indices: label values stay label values."""
    return array[::2, ::2, ::2]


def local_mean(array: NDArray[Any]) -> NDArray[Any]:
    """Halve each axis by the mean of 2 x 2 x 2 voxels; at an odd end, of the voxels that exist."""
    work = array if array.dtype == np.float64 else array.astype(np.float32)
    work = np.pad(work, [(0, n % 2) for n in array.shape], mode="edge")
    for axis in range(3):
        even, odd = (np.take(work, range(first, work.shape[axis], 2), axis) for first in (0, 1))
        work = 0.5 * (even + odd)
    return (work if array.dtype.kind == "f" else np.rint(work)).astype(array.dtype)


def _attributes(spacing: float, *, levels: int, centred: bool) -> bytes:
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = []
    for level in range(levels):
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [spacing * 2**level] * 3}]
        if centred and level:  # the mean of voxels 2i and 2i + 1 lies between them
            transforms.append({"type": "translation", "translation": [spacing * (2**level - 1) / 2] * 3})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscales = [{"version": "0.4", "name": "/", "axes": axes, "datasets": datasets}]
    return json.dumps({"multiscales": multiscales, _OURS: {"every_chunk_written": True}}, indent=4).encode()

"""Stored volumes as arrays of xarray: read when values are asked for, with coordinates in ångström.

A value is read through `ChunkedArray`, so retries, errors and the rule for absent chunks are those of the store. A
lazy array pickles as the URL, the options and the metadata of its volume: Dask sends it to workers, never its voxels.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from membrain_cloud.errors import VoxelSpacingError
from membrain_cloud.geometry import Box
from membrain_cloud.store.volumes.zarr_array import ChunkedArray
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

AXES = ("z", "y", "x")
"""Dimensions of a volume."""

_ANGSTROM = {"angstrom": 1.0, "nanometer": ANGSTROM_PER_NM, "micrometer": 1e4, "picometer": 0.01, "meter": 1e10}


class LazyVolume(BackendArray):
    """A stored array that xarray indexes without reading it.

    Parameters
    ----------
    array : ChunkedArray
        The stored array.

    Attributes
    ----------
    shape : tuple of 3 ints
        Shape, zyx.
    dtype : numpy.dtype
        Data type, in the machine's byte order.
    """

    def __init__(self, array: ChunkedArray) -> None:
        self.shape = array.format.shape
        self.dtype = array.format.dtype.newbyteorder("=")
        self._array = array

    def __reduce__(self) -> tuple[Any, ...]:
        array = self._array
        return _restored, (array.files, array.path, array.format, array.sparse)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: Sequence[Any]) -> NDArray[Any]:
        """Return the voxels of an outer product of integers, slices and index arrays; chunks outside are not read."""
        indices = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        shape = tuple(len(chosen) for chosen in indices if chosen.ndim)
        indices = [np.atleast_1d(chosen) for chosen in indices]
        if not all(map(len, indices)):
            return np.empty(shape, self.dtype)
        if all((np.diff(chosen) == 1).all() for chosen in indices):
            return self._array.read(_bounding_box(indices)).reshape(shape)
        out = np.empty([len(chosen) for chosen in indices], self.dtype)
        parts = (_by_chunk(chosen, edge) for chosen, edge in zip(indices, self._array.format.chunk, strict=True))
        for places in itertools.product(*parts):
            inside = [chosen[place] for chosen, place in zip(indices, places, strict=True)]
            box = _bounding_box(inside)
            values = self._array.read(box)
            relative = [chosen - start for chosen, start in zip(inside, box.start, strict=True)]
            out[np.ix_(*places)] = values[np.ix_(*relative)]
        return out.reshape(shape)


def _restored(files: Files, path: str, array_format: Any, sparse: bool) -> LazyVolume:
    return LazyVolume(ChunkedArray(files, path, array_format, sparse=sparse))


def _bounding_box(indices: Sequence[NDArray[np.intp]]) -> Box:
    z, y, x = ((int(chosen.min()), int(chosen.max()) + 1) for chosen in indices)
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def _by_chunk(chosen: NDArray[np.intp], edge: int) -> Iterator[NDArray[np.intp]]:
    """Yield the places of the indices that lie in each chunk along one axis."""
    chunk = chosen // edge
    for number in np.unique(chunk):
        yield np.flatnonzero(chunk == number)


def volume_dataset(
    array: ChunkedArray, name: str, coordinates: Mapping[str, NDArray[np.float64]], attributes: Mapping[str, Any]
) -> xr.Dataset:
    """Return a stored array as a data set with one variable, which is not read.

    Parameters
    ----------
    array : ChunkedArray
        The stored array.
    name : str
        Name of the variable.
    coordinates : Mapping of str to ndarray
        Positions of the voxels' centres along z, y and x in Å, in the order of the axes; may be empty.
    attributes : Mapping
        Attributes of the variable.

    Returns
    -------
    Dataset
        The variable, with its chunk shape as xarray's preferred chunks, and the coordinates.
    """
    axes = tuple(coordinates) or AXES
    values = xr.Variable(axes, indexing.LazilyIndexedArray(LazyVolume(array)), dict(attributes))
    chunk = array.format.chunk
    values.encoding = {"chunks": chunk, "preferred_chunks": dict(zip(axes, chunk, strict=True))}
    along = {
        axis: xr.Variable((axis,), positions, {"units": "angstrom", "long_name": f"{axis} of the voxel's centre"})
        for axis, positions in coordinates.items()
    }
    return xr.Dataset({name: values}, coords=along)


def positions(length: int, spacing_angstrom: float, offset_angstrom: float = 0.0) -> NDArray[np.float64]:
    """Return the positions of the voxels' centres along one axis.

    Parameters
    ----------
    length : int
        Number of voxels N.
    spacing_angstrom : float
        Voxel spacing in Å.
    offset_angstrom : float
        Position of the first centre in Å. Default: 0.

    Returns
    -------
    ndarray, shape (N,), float64
        Positions in Å.
    """
    return np.asarray(offset_angstrom + spacing_angstrom * np.arange(length), np.float64)


def level_coordinates(
    attributes: Mapping[str, Any], level: int, shape: Sequence[int], what: str
) -> dict[str, NDArray[np.float64]]:
    """Return the positions of the voxels of a level, as the metadata state them.

    Parameters
    ----------
    attributes : Mapping
        Attributes of the volume, with `multiscales`.
    level : int
        Index of the level, 0 for the finest.
    shape : sequence of 3 ints
        Shape of the level's array, in the order of its axes.
    what : str
        The volume, for error messages.

    Returns
    -------
    dict of str to ndarray
        Name of each of the last three axes, in the order of the array, and positions in Å, float64; empty where the
        metadata state no scale.

    Raises
    ------
    VoxelSpacingError
        If the axes are not z, y and x, the unit of an axis is not known, or a scale is not positive and finite.
    """
    try:
        multiscale = attributes["multiscales"][0]
        dataset = multiscale["datasets"][level]
        axes = [dict(axis) for axis in multiscale["axes"]][-3:]
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    scale, shift, stated = np.ones(3), np.zeros(3), False
    for kind, factors in _transforms(dataset, what) + _transforms(multiscale, what):
        if kind == "scale":
            if not all(math.isfinite(factor) and factor > 0 for factor in factors):
                raise VoxelSpacingError(f"{what}: a scale of {factors}", "correct the scale in the metadata")
            scale, shift, stated = scale * factors, shift * factors, True
        else:
            shift = shift + factors
    if not stated:
        return {}
    names = [str(axis.get("name", "")).lower() for axis in axes]
    if sorted(names) != sorted(AXES):
        raise VoxelSpacingError(
            f"{what}: its axes are {', '.join(map(repr, names))}", "write the metadata with axes z, y, x"
        )
    found = {}
    for place, (name, axis) in enumerate(zip(names, axes, strict=True)):
        unit = axis.get("unit") or "angstrom"
        in_angstrom = _ANGSTROM.get(unit)
        if in_angstrom is None:
            raise VoxelSpacingError(f"{what}: unit {unit!r} of its axes is not known", "write the axes in angstrom")
        found[name] = positions(shape[place], float(scale[place]) * in_angstrom, float(shift[place]) * in_angstrom)
    return found


def _transforms(entry: Mapping[str, Any], what: str) -> list[tuple[str, list[float]]]:
    """Return the scales and translations of a dataset or a multiscale along the last three axes, in order."""
    kinds = ("scale", "translation")
    try:
        return [
            (step["type"], [float(value) for value in step[step["type"]][-3:]])
            for step in entry.get("coordinateTransformations") or ()
            if step["type"] in kinds
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise VoxelSpacingError(
            f"{what}: its coordinate transformations cannot be read ({error!r})", "write them as lists of numbers"
        ) from error

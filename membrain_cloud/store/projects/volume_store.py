"""Reading and writing the volumes of a project: tomograms, maps beside them, and segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from membrain_cloud.errors import ChunkError, ProjectError, TomogramError, UnfinishedError
from membrain_cloud.geometry import Grid, iterate_chunks
from membrain_cloud.store.objects.object_info import listing_digest
from membrain_cloud.store.refs import SegmentationRef, TomogramRef, VolumeRef
from membrain_cloud.store.volumes import multiscales, ome_zarr
from membrain_cloud.store.volumes.pyramid import Level, finish_volume, pyramid
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_store import Files
    from membrain_cloud.store.projects.layers import Layers
    from membrain_cloud.store.volumes.ome_zarr import OmeVersion

_CREATE_FIRST = "create it, write every chunk, then finish it; where another run is making it anew, run again"


@dataclass(frozen=True)
class StoredVolume:
    """A volume whose metadata have been read.

    Attributes
    ----------
    files : Files
        The store that holds it.
    array : ChunkedArray
        Its finest level.
    attributes : dict
        The attributes of its group.
    """

    files: Files
    array: ChunkedArray
    attributes: dict[str, Any]


class VolumeLookup:
    """The volumes in the folders of a project, opened by reference.

    Parameters
    ----------
    layers : Layers
        The folders of the project.
    keep : bool
        Whether a volume that was opened is kept, which is right within one task: no other process writes what a task
        reads or writes. Default: False.
    """

    def __init__(self, layers: Layers, *, keep: bool = False) -> None:
        self.layers = layers
        self._kept: dict[str, StoredVolume] | None = {} if keep else None

    def open(self, ref: VolumeRef) -> StoredVolume:
        """Return a volume with its metadata; raise ProjectError if it is absent."""
        if self._kept is not None and ref.path in self._kept:
            return self._kept[ref.path]
        place = self.layers.find(ref.path)
        if place is None:
            raise ProjectError(f"{ref.key}: there is no such volume", "check run, type and voxel spacing")
        array, attributes = ome_zarr.open_volume(*place, sparse=isinstance(ref, SegmentationRef))
        volume = StoredVolume(place[0], array, attributes)
        if self._kept is not None:
            self._kept[ref.path] = volume
        return volume

    def grid(self, ref: VolumeRef) -> Grid:
        """Return shape and voxel spacing of a volume from its metadata; errors as `Project.grid`."""
        return self.grid_of(ref, self.open(ref))

    @staticmethod
    def grid_of(ref: VolumeRef, volume: StoredVolume) -> Grid:
        """Return the grid of a volume that is open; errors as `Project.grid`.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume, for its voxel spacing.
        volume : StoredVolume
            Its array and attributes.
        """
        return ome_zarr.grid_of(volume.array, volume.attributes, ref.voxel_spacing_angstrom, ref.key)

    def kept_in_overlay(self, ref: VolumeRef) -> ChunkedArray | None:
        """Return the finest level of a volume of the overlay that is kept open, else None."""
        volume = None if self._kept is None else self._kept.get(ref.path)
        return volume.array if volume is not None and volume.files is self.layers.overlay else None

    def forget(self, ref: VolumeRef) -> None:
        """Drop a volume that is kept open, because it is about to change."""
        if self._kept is not None:
            self._kept.pop(ref.path, None)


class VolumeReader(Protocol):
    """Reads the volumes of a project."""

    def metered(self, lookup: VolumeLookup, meter: Meter) -> VolumeReader:
        """Return a reader for one task.

        Parameters
        ----------
        lookup : VolumeLookup
            The folders of the project, metered.
        meter : Meter
            Counts what is read from elsewhere.
        """

    def location(self, ref: VolumeRef) -> tuple[Files, str] | None:
        """Return the store and the path there of a volume, or None if it is absent."""

    def grid(self, ref: VolumeRef) -> Grid:
        """Return shape and voxel spacing of a volume; errors as `Project.grid`."""

    def levels(self, ref: TomogramRef) -> list[Level]:
        """Return the levels of a tomogram's pyramid, the finest first."""

    def array(self, ref: VolumeRef, level: int = 0) -> ChunkedArray:
        """Return the stored array of a level.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume.
        level : int
            Index into `levels`; of other volumes than tomograms the finest level is returned. Default: 0.
        """

    def identity(self, ref: VolumeRef) -> str:
        """Return a hash that changes when the stored voxels are replaced."""

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        """Return the stored size of a volume in bytes, or None if it is unknown without a request."""


class CopickVolumes:
    """Reads the volumes in the folders of a copick project.

    Parameters
    ----------
    lookup : VolumeLookup
        Opens the volumes.
    """

    def __init__(self, lookup: VolumeLookup) -> None:
        self._lookup = lookup

    def metered(self, lookup: VolumeLookup, meter: Meter) -> CopickVolumes:
        """Return a reader for one task, over a metered `lookup`."""
        return CopickVolumes(lookup)

    def location(self, ref: VolumeRef) -> tuple[Files, str] | None:
        """Return the store and the path there of a volume, or None if it is absent."""
        return self._lookup.layers.find(ref.path)

    def grid(self, ref: VolumeRef) -> Grid:
        """Return shape and voxel spacing of a volume; errors as `Project.grid`."""
        return self._lookup.grid(ref)

    def levels(self, ref: TomogramRef) -> list[Level]:
        """Return the levels of a tomogram's pyramid, the finest first."""
        volume = self._lookup.open(ref)
        return pyramid(volume.files, ref.path, volume.attributes, self._lookup.grid_of(ref, volume))

    def array(self, ref: VolumeRef, level: int = 0) -> ChunkedArray:
        """Return the stored array of a level; see `VolumeReader.array`."""
        volume = self._lookup.open(ref)
        if level == 0 or not isinstance(ref, TomogramRef):
            return volume.array
        return ChunkedArray.open(volume.files, f"{ref.path}/{self.levels(ref)[level].path}")

    def identity(self, ref: VolumeRef) -> str:
        """Return a hash over names, sizes and tags of the chunks of level 0, and over the grid."""
        volume = self._lookup.open(ref)
        listing = volume.files.listing(volume.array.path)
        if not listing:
            raise ProjectError(f"{ref.key}: there is nothing to identify", "check the name, or write it first")
        return listing_digest(listing, repr(self._lookup.grid_of(ref, volume)))

    def stored_bytes(self, ref: VolumeRef) -> None:
        """Return None: the size is unknown without a request."""


class VolumeWriter:
    """Writes volumes to the overlay: create, then write every chunk, then finish.

    Parameters
    ----------
    lookup : VolumeLookup
        Forgets a volume that is created anew or finished.
    """

    def __init__(self, lookup: VolumeLookup) -> None:
        self._lookup = lookup

    def create(self, ref: VolumeRef, grid: Grid, dtype: str, chunk: int, version: OmeVersion = "0.4") -> ChunkedArray:
        """Make an empty volume in place of any earlier one.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume.
        grid : Grid
            Its shape and voxel spacing.
        dtype : str
            NumPy's name of its data type.
        chunk : int
            Edge of the chunks, or of the shards of 0.5, in voxels.
        version : {"0.4", "0.5"}
            Version of OME-Zarr. Default: 0.4.

        Returns
        -------
        ChunkedArray
            The empty finest level.
        """
        self._lookup.forget(ref)
        return ome_zarr.create_volume(self._lookup.layers.overlay, ref.path, grid, dtype, chunk, version)

    def write(self, ref: VolumeRef, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks of a volume that was created.

        Parameters
        ----------
        ref : FeaturesRef or SegmentationRef
            The volume.
        box : Box
            The voxels to write; its faces are faces of chunks or of the volume.
        array : ndarray, shape of `box`, dtype of the volume
            The values, zyx.

        Raises
        ------
        UnfinishedError
            If the volume was not created.
        """
        stored = self._lookup.kept_in_overlay(ref)
        if stored is None:
            try:
                stored = ChunkedArray.open(self._lookup.layers.overlay, f"{ref.path}/0")
            except FileNotFoundError as error:
                raise UnfinishedError(f"{ref.key} cannot be written to: it was not created", _CREATE_FIRST) from error
        stored.write(box, array)

    def write_tomogram(self, ref: TomogramRef, array: Any, chunk: int, version: OmeVersion = "0.4") -> None:
        """Write a tomogram with its pyramid; errors as `Project.write_tomogram`.

        Parameters
        ----------
        ref : TomogramRef
            The tomogram.
        array : array-like, shape (Z, Y, X), dtype one of a tomogram
            Densities; anything with shape, dtype and slicing.
        chunk : int
            Edge of the chunks, or of the shards of 0.5, in voxels.
        version : {"0.4", "0.5"}
            Version of OME-Zarr. Default: 0.4.
        """
        dtype = np.dtype(array.dtype).newbyteorder("=")
        if dtype.name not in ome_zarr.DENSITY_TYPES:
            raise TomogramError(f"{ref.key}: data type {dtype} is not one of a tomogram", "convert it to float32")
        grid = grid_of_array(array, ref)
        stored = self.create(ref, grid, dtype.name, chunk, version)
        for box in iterate_chunks(grid.shape, stored.format.shard):
            stored.write(box, np.asarray(array[box.slices], dtype))
        self.finish(ref, spacing_angstrom=grid.voxel_spacing_angstrom, mean=True)

    def finish(self, ref: VolumeRef, *, mean: bool, spacing_angstrom: float | None = None) -> None:
        """Write levels 1 and 2 of the pyramid, then announce all levels.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume.
        mean : bool
            Whether a coarser voxel is the mean of 2 x 2 x 2 voxels, or every second voxel.
        spacing_angstrom : float, optional
            Voxel spacing in Å. Default: that of the volume's metadata.

        Raises
        ------
        UnfinishedError
            If the volume or a chunk of it is absent.
        """
        try:
            spacing = self._lookup.grid(ref).voxel_spacing_angstrom if spacing_angstrom is None else spacing_angstrom
            self._lookup.forget(ref)
            finish_volume(self._lookup.layers.overlay, ref.path, spacing, mean=mean)
        except (ChunkError, ProjectError, FileNotFoundError) as error:
            cause = getattr(error, "message", f"there is no {error}")
            raise UnfinishedError(f"{ref.key} cannot be finished: {cause}", _CREATE_FIRST) from error

    def is_complete(self, ref: VolumeRef) -> bool:
        """Return whether a volume exists with all levels announced, which `finish` does last."""
        place = self._lookup.layers.find(ref.path)
        return place is not None and multiscales.is_finished(multiscales.read_attributes(*place))

    def remove(self, ref: VolumeRef) -> None:
        """Remove a volume from the overlay, if it is there."""
        self._lookup.forget(ref)
        self._lookup.layers.overlay.remove(ref.path)


def grid_of_array(array: Any, ref: VolumeRef) -> Grid:
    """Return the grid of an array that is to be written as `ref`.

    Parameters
    ----------
    array : array-like, shape (Z, Y, X), any dtype
        Anything with a shape.
    ref : TomogramRef, FeaturesRef or SegmentationRef
        Gives the voxel spacing.

    Raises
    ------
    TomogramError
        If the array is empty or not three-dimensional.
    """
    if len(array.shape) != 3 or 0 in array.shape:
        raise TomogramError(f"{ref.key}: shape {tuple(array.shape)} is not a volume", "give an array z, y, x")
    z, y, x = map(int, array.shape)
    return Grid((z, y, x), ref.voxel_spacing_angstrom)

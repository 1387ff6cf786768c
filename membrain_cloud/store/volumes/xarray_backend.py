"""OME-Zarr volumes in xarray: `xarray.open_dataset(path, engine="ome-zarr", level=1)` and `open_datatree`.

xarray finds the engine by the entry point `xarray.backends` and loads this module for each file that it opens, so
everything else is imported when a volume is opened.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from xarray.backends import BackendEntrypoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

VARIABLE = "image"
"""Name of the variable that holds the voxels."""


class OmeZarrBackend(BackendEntrypoint):
    """Open OME-Zarr 0.4 and 0.5 volumes, sharded or not, from a path or URL; voxels are read when they are used.

    A volume has the dimensions z, y and x, and their positions in Å as coordinates. Axes of length 1 before them (time,
    channel) are left out. An absent chunk raises ChunkError unless `sparse` is true.
    """

    description: ClassVar[str] = "Open OME-Zarr volumes: one level, or the pyramid; absent chunks raise"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "level",
        "storage_options",
        "sparse",
    )
    supports_groups: ClassVar[bool] = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: the engine is used where it is named, so that other Zarr data open as before."""
        return False

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        level: int = 0,
        storage_options: Mapping[str, Any] | None = None,
        sparse: bool = False,
    ) -> xr.Dataset:
        """Return one level of a volume.

        Parameters
        ----------
        filename_or_obj : str or path
            Path or fsspec URL of the volume's folder.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        level : int
            Level of the pyramid. Default: 0, the finest.
        storage_options : Mapping, optional
            Arguments of the fsspec file system, such as copick's `overlay_fs_args`.
        sparse : bool
            Whether an absent chunk means the fill value, as in label volumes of other programs. Default: False.

        Returns
        -------
        Dataset
            The variable `image`, and the coordinates z, y and x in Å where the metadata state a scale.

        Raises
        ------
        UsageError
            If there is no such level.
        ProjectError
            If there is no volume.
        TomogramError, ChunkError, VoxelSpacingError
            If the volume's metadata are torn, or describe no volume of numbers.
        """
        from membrain_cloud.errors import UsageError

        volume = _Volume(filename_or_obj, storage_options, sparse)
        if not 0 <= level < len(volume.levels):
            raise UsageError(
                f"{volume.url}: no level {level}", f"its levels are {', '.join(map(str, range(len(volume.levels))))}"
            )
        return _without(volume.dataset(level), drop_variables)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        sparse: bool = False,
    ) -> dict[str, xr.Dataset]:
        """Return all levels of a volume by their paths; the root holds attributes. Parameters as `open_dataset`."""
        import xarray as xr

        volume = _Volume(filename_or_obj, storage_options, sparse)
        groups = {"/": xr.Dataset(attrs=volume.attributes)}
        for number, path in enumerate(volume.levels):
            groups[f"/{path.rpartition('/')[2] or number}"] = _without(volume.dataset(number), drop_variables)
        return groups

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        sparse: bool = False,
    ) -> xr.DataTree:
        """Return all levels of a volume as a tree with a node for each. Parameters as `open_dataset`."""
        import xarray as xr

        return xr.DataTree.from_dict(
            self.open_groups_as_dict(
                filename_or_obj, drop_variables=drop_variables, storage_options=storage_options, sparse=sparse
            )
        )


class _Volume:
    """A volume whose metadata have been read."""

    def __init__(self, place: Any, storage_options: Mapping[str, Any] | None, sparse: bool) -> None:
        from membrain_cloud.errors import UsageError
        from membrain_cloud.store.objects.object_store import Files
        from membrain_cloud.store.volumes import multiscales, ome_zarr

        if not isinstance(place, str | os.PathLike):
            raise UsageError(f"engine ome-zarr: a {type(place).__name__}", "give the path or URL of a volume")
        self.url = os.fspath(place).rstrip("/")
        folder, _, name = self.url.rpartition("/")
        self._files, self._path = Files(folder or ("/" if self.url.startswith("/") else "."), storage_options), name
        self._first, self._metadata = ome_zarr.open_volume(self._files, name, sparse=sparse)
        self.levels = multiscales.level_paths(self._metadata) or [""]

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the tree."""
        return {"source": self.url}

    def dataset(self, level: int) -> xr.Dataset:
        """Return a level."""
        from membrain_cloud.store.volumes.lazy_volume import level_coordinates, volume_dataset
        from membrain_cloud.store.volumes.zarr_array import ChunkedArray

        array = self._first
        if level:
            array = ChunkedArray.open(self._files, f"{self._path}/{self.levels[level]}", sparse=self._first.sparse)
        coordinates = level_coordinates(self._metadata, level, array.format.shape, self.url)
        attributes = {"source": self.url, "level": self.levels[level]}
        dataset = volume_dataset(array, VARIABLE, coordinates, attributes)
        dataset.attrs |= self.attributes
        return dataset


def _without(dataset: xr.Dataset, names: str | Iterable[str] | None) -> xr.Dataset:
    unwanted = [names] if isinstance(names, str) else list(names or ())
    return dataset.drop_vars(unwanted, errors="ignore")

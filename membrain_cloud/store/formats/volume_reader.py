"""Volume files of any size and kind, read box by box: MRC, NIfTI, NRRD, TIFF, NumPy and OME-Zarr.

This is the only reader of volume files. What a file's header says is in `VolumeHeader`; its voxels are read where they
are asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from membrain_cloud.errors import ChunkError, InputError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Box, Grid, Zyx
from membrain_cloud.store.formats.layouts.mrc import mrc_layout
from membrain_cloud.store.formats.layouts.nifti import nifti_layout
from membrain_cloud.store.formats.layouts.nrrd import nrrd_layout
from membrain_cloud.store.formats.layouts.numpy_array import numpy_layout
from membrain_cloud.store.formats.layouts.tiff import tiff_layout
from membrain_cloud.store.formats.local_input import check_regular_file, path_exists, unreadable
from membrain_cloud.store.formats.volume_files import (
    Kind,
    file_stem,
    is_compressed,
    open_content,
    split_name,
    uncompressed_size,
    unpacked,
)
from membrain_cloud.store.formats.volume_layout import (
    VolumeHeader,
    VolumeLayout,
    VoxelSource,
    believable_spacing,
    fit_to_size,
    open_voxels,
)
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes import multiscales, ome_zarr
from membrain_cloud.store.volumes.pyramid import Level, pyramid
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["VolumeFile", "VolumeHeader", "file_stem", "open_volume_file", "read_header", "read_volume"]

_MISSING = re.compile(r"is missing|no chunk was ever written")
_EMPTY_CHUNKS = (
    "a fault of copying, or chunks of the fill value that were never written (write_empty_chunks=False, the default of "
    "zarr-python 3)"
)
_FILL = "where they were empty, set empty_chunks to fill, or write them with write_empty_chunks=True"
_LAYOUTS: dict[Kind, Callable[[BinaryIO, str], VolumeLayout]] = {
    "mrc": mrc_layout,
    "tiff": tiff_layout,
    "numpy": numpy_layout,
    "nifti": nifti_layout,
    "nrrd": nrrd_layout,
}


class VolumeFile:
    """A volume of a file, open for reading. Close it, or use it with `with`.

    It has the shape, the dtype and the zyx slicing of an array, and reads only what is asked for.

    Attributes
    ----------
    path : str
        The file.
    header : VolumeHeader
        What the file says of itself, and what was assumed about it.
    shape : tuple of int
        Voxels along z, y, x.
    dtype : numpy.dtype
        Type of what is read, in the machine's byte order.
    chunk : tuple of int
        The box (z, y, x) that is read at one go; reading across it costs the same again.
    """

    def __init__(
        self, path: str, header: VolumeHeader, source: VoxelSource, chunk: Zyx, resources: contextlib.ExitStack
    ) -> None:
        self.path, self.header, self.chunk = path, header, chunk
        self.shape: Zyx = header.shape
        self.dtype = header.dtype.newbyteorder("=")
        self._source, self._resources = source, resources

    @property
    def voxel_spacing_angstrom(self) -> float | None:
        """The file's own voxel spacing in Å, None where it gives no believable one."""
        return self.header.voxel_spacing_angstrom

    @property
    def origin_angstrom(self) -> tuple[float, float, float]:
        """The origin of an MRC header, xyz in Å; 0 elsewhere."""
        return self.header.origin

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed about the file, as sentences."""
        return self.header.notes

    def read(self, box: Box) -> NDArray[Any]:
        """Read the voxels of a box.

        Parameters
        ----------
        box : Box
            Within the volume.

        Returns
        -------
        (Z, Y, X) array of `dtype`
            A contiguous array of its own.

        Raises
        ------
        ValueError
            If the box is not within the volume.
        TomogramError
            If the file ends early.
        ChunkError
            If a chunk of a Zarr is missing or damaged.
        """
        if Box((0, 0, 0), self.shape).intersection(box) != box:
            raise ValueError(f"{box} is not inside the volume of shape {self.shape}")
        return np.ascontiguousarray(self._source.read(box), self.dtype)

    def __getitem__(self, slices: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read the voxels of three slices along z, y, x without steps; see `read`."""
        z, y, x = (axis.indices(n)[:2] for axis, n in zip(slices, self.shape, strict=True))
        return self.read(Box((z[0], y[0], x[0]), (z[1], y[1], x[1])))

    def spacing_angstrom(self, override: float | None) -> float:
        """Return the voxel spacing to use.

        Parameters
        ----------
        override : float or None
            Å; None for the file's own.

        Returns
        -------
        float
            Å.

        Raises
        ------
        VoxelSpacingError
            If neither is there, or it is absurd for a tomogram.
        """
        spacing = self.voxel_spacing_angstrom if override is None else override
        return ome_zarr.checked_spacing(spacing, self.path, "voxel_spacing_angstrom, e.g. 10")

    def levels(self, voxel_spacing_angstrom: float) -> list[Level]:
        """Return the levels of the volume's pyramid; only OME-Zarr has more than one.

        Parameters
        ----------
        voxel_spacing_angstrom : float
            Of the finest level, Å.

        Returns
        -------
        list of Level
            From the finest to the coarsest.
        """
        finest = Grid(self.shape, voxel_spacing_angstrom)
        if not self.path.lower().rstrip("/").endswith(".zarr"):
            return [Level("", finest, 0.0)]
        files = Files(self.path)
        return pyramid(files, "", multiscales.read_attributes(files, ""), finest)

    def level(self, level: Level) -> VolumeFile:
        """Return a coarser level as a volume. It needs no closing of its own.

        Parameters
        ----------
        level : Level
            One of `levels`.

        Returns
        -------
        VolumeFile
        """
        array = ChunkedArray.open(Files(self.path), level.path)
        header = VolumeHeader(level.grid.shape, self.dtype, level.grid.voxel_spacing_angstrom, self.origin_angstrom)
        return VolumeFile(self.path, header, array, _chunk(array), contextlib.ExitStack())

    def close(self) -> None:
        """Close the file, and remove what was unpacked of it."""
        self._resources.close()

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_volume_file(path: str, scratch: str | None = None, *, fill_empty_chunks: bool = False) -> VolumeFile:
    """Open a volume file of a known kind; its voxels are read where they are asked for.

    Parameters
    ----------
    path : str
        Local path or file:// URL of .mrc, .rec, .map, .st, .ali, .nii, .nrrd, .tif or .npy, each also .gz or .bz2;
        path or URL of a .zarr, whose finest level is read.
    scratch : str, optional
        Folder in which a compressed file is unpacked until it is closed. Default: the system's temporary folder.
    fill_empty_chunks : bool
        Whether chunks of a Zarr that are not there are read as its fill value: zarr-python 3 leaves out chunks that
        are empty. Default: they are refused.

    Returns
    -------
    VolumeFile

    Raises
    ------
    TomogramError
        If the file is missing, truncated, damaged, no volume, or of a type that no tomogram has.
    StorageError
        If there is no room to unpack a compressed file.
    """
    path, kind = _checked_path(path)
    if kind == "zarr":
        array, header = _open_zarr(path, fill=fill_empty_chunks)
        return VolumeFile(path, header, _ZarrSource(array), _chunk(array), contextlib.ExitStack())
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(unpacked(path, scratch)) if is_compressed(path) else path
        file = cast("BinaryIO", stack.enter_context(open_content(local)))
        layout = fit_to_size(_layout(kind, file, path), os.fstat(file.fileno()).st_size, path)
        source = open_voxels(layout, file, path)
        return VolumeFile(path, layout.header, source, layout.chunk, stack.pop_all())


def read_header(path: str, *, check_size: bool = False) -> VolumeHeader:
    """Read shape, type and voxel spacing of a volume file, and no voxels.

    Parameters
    ----------
    path : str
        As in `open_volume_file`.
    check_size : bool
        Whether the file is checked to hold all voxels that its header announces; compressed files are read through.
        Default: False.

    Returns
    -------
    VolumeHeader

    Raises
    ------
    TomogramError
        If the file is missing, damaged, or no volume; with `check_size` also if it is truncated.
    """
    path, kind = _checked_path(path)
    if kind == "zarr":
        return _open_zarr(path)[1]
    with open_content(path) as file:
        layout = _layout(kind, cast("BinaryIO", file), path)
        if check_size and layout.decode is not None:
            open_voxels(layout, cast("BinaryIO", file), path)
    return fit_to_size(layout, uncompressed_size(path), path).header if check_size else layout.header


def read_volume(path: str) -> tuple[NDArray[Any], VolumeHeader]:
    """Read a whole volume.

    Parameters
    ----------
    path : str
        As in `open_volume_file`.

    Returns
    -------
    (Z, Y, X) array of the file's type
        In the machine's byte order.
    VolumeHeader

    Raises
    ------
    TomogramError, VoxelSpacingError, StorageError
        As `open_volume_file`.
    ChunkError
        If a chunk of a Zarr is missing or damaged.
    """
    with open_volume_file(path) as volume:
        return volume.read(Box((0, 0, 0), volume.shape)), volume.header


def _layout(kind: Kind, file: BinaryIO, path: str) -> VolumeLayout:
    """Read a header; whatever a damaged one makes the libraries raise is named as damage."""
    try:
        return _LAYOUTS[kind](file, path)
    except InputError:
        raise
    except OSError as error:
        raise TomogramError(unreadable(path, error), "check the path and its permissions") from error
    except Exception as error:  # the libraries raise many kinds for a damaged header
        words = " ".join(str(error).split())[:200]
        raise TomogramError(f"{path}: the header is damaged ({words})", "copy or convert the file again") from error


def _checked_path(path: str) -> tuple[str, Kind]:
    """Return the path of a file that exists, and its kind."""
    path = path.removeprefix("file://")
    kind = split_name(path)[1]
    if "://" in path:
        if kind != "zarr":
            raise TomogramError(f"{path}: of remote files only .zarr can be read in parts", "copy the file here first")
    elif kind == "zarr":
        if not path_exists(path):
            raise TomogramError(f"{path}: there is no such file", "check the path")
        if not Path(path).is_dir():
            raise TomogramError(f"{path}: it is no folder, as a Zarr volume is", "give the folder of the volume")
    else:
        check_regular_file(path, TomogramError)
    return path, kind


class _ZarrSource:
    """The voxels of an array, whose missing chunks are named with their likely cause."""

    def __init__(self, array: ChunkedArray) -> None:
        self._array = array

    def read(self, box: Box) -> NDArray[Any]:
        try:
            return self._array.read(box)
        except ChunkError as error:
            if self._array.sparse or not _MISSING.search(error.message):
                raise
            raise ChunkError(f"{error.message}: {_EMPTY_CHUNKS}", f"{error.next_step}; {_FILL}") from error


def _open_zarr(path: str, *, fill: bool = False) -> tuple[ChunkedArray, VolumeHeader]:
    notes: list[str] = []
    try:
        array, attributes = ome_zarr.open_volume(Files(path), "", sparse=fill)
    except (ChunkError, ProjectError) as error:
        raise TomogramError(error.message, error.next_step) from error
    try:
        spacing = ome_zarr.spacing_from_attributes(attributes, path)
    except VoxelSpacingError as error:  # one that is given takes its place
        spacing = None
        notes.append(f"Zarr: no voxel spacing ({error.message.removeprefix(f'{path}: ')})")
    if fill:
        notes.append("Zarr: chunks that are not there are read as the fill value")
    if spacing is not None:
        spacing = believable_spacing(spacing, notes, "Zarr")
    elif not any("spacing" in note for note in notes):
        notes.append("Zarr: no voxel spacing")
    dtype = array.format.dtype.newbyteorder("=")
    return array, VolumeHeader(array.format.shape, dtype, spacing, notes=tuple(notes))


def _chunk(array: ChunkedArray) -> Zyx:
    z, y, x = (min(a, n) for a, n in zip(array.format.chunk, array.format.shape, strict=True))
    return z, y, x

"""Volume files are written here: box by box as MRC with right statistics or as OME-Zarr, or whole as MRC."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.atomic import hidden_sibling
from membrain_cloud.errors import StorageError, UsageError, storage_error
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.store.formats.layouts.mrc import HEADER_BYTES
from membrain_cloud.store.formats.local_output import write_local_file
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes import ome_zarr
from membrain_cloud.store.volumes.pyramid import finish_volume
from membrain_cloud.store.volumes.scratch_array import RawArray, check_room

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["VolumeFileWriter", "check_output", "write_mrc"]

_MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


class VolumeFileWriter:
    """A volume file that is filled box by box and appears, whole, when it is closed.

    It is an MRC file, or an OME-Zarr of three levels where the name ends in .zarr. Boxes may be any, each voxel
    written once. Until `close`, everything lies in a temporary file beside the output; leaving `with` by an exception
    leaves nothing behind.

    Parameters
    ----------
    path : str
        Local .mrc, .rec, .map or .zarr. Its folder is made where it is missing.
    shape : tuple of int
        Voxels along z, y, x.
    voxel_spacing_angstrom : float
        Å.
    dtype : dtype, type or str
        int8, int16, uint16, float16 or float32; uint8 and others in Zarr only.
    origin_angstrom : tuple of float
        xyz in Å, for the header of an MRC. Default: 0.
    labels : bool
        Whether the levels of a Zarr are made by taking voxels and not by averaging. Default: False.
    overwrite : bool
        Whether an existing file is replaced; otherwise it is refused before anything is computed. Default: False.

    Raises
    ------
    UsageError
        If the name or the type cannot be written, or the file exists.
    StorageError
        If the folder cannot be written, or the disk has too little room.
    """

    def __init__(
        self,
        path: str,
        shape: Zyx,
        voxel_spacing_angstrom: float,
        dtype: np.dtype[Any] | type[Any] | str,
        *,
        origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
        labels: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path, self.grid, self.dtype = path.rstrip("/"), Grid(shape, voxel_spacing_angstrom), np.dtype(dtype)
        self.origin_angstrom = origin_angstrom
        self._labels, self._zarr = labels, path.lower().rstrip("/").endswith(".zarr")
        check_output(path, overwrite=overwrite)
        if not self._zarr and self.dtype.name not in _MRC_MODES:
            raise UsageError(
                f"{path}: MRC has no type {self.dtype}", f"take one of {', '.join(_MRC_MODES)}, or write a .zarr"
            )
        self._temporary = Path(hidden_sibling(Path(self.path).absolute()))
        self._temporary_zarr = self._temporary.with_name(f"{self._temporary.name}.zarr")
        self._statistics = _RunningStatistics()
        size = math.prod(shape) * self.dtype.itemsize
        folder = self._temporary.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            needed = 2 * size if self._zarr else size
            check_room(str(folder), needed, "output takes, with its temporary files,", "output")
            self._file = self._temporary.open("w+b")
        except OSError as error:
            raise storage_error(error, path) from error
        offset = 0 if self._zarr else HEADER_BYTES
        self._array = RawArray(self._file.fileno(), offset, shape, self.dtype.newbyteorder("<"), path)

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write the voxels of a box.

        Parameters
        ----------
        box : Box
            Within the volume, not written before.
        array : (Z, Y, X) array of bool, integer or float
            Of the box's shape; converted to the file's type.

        Raises
        ------
        StorageError
            If the disk is full, or a value is beyond float16.
        """
        if self.dtype == np.float16 and array.size and float(np.abs(array).max()) > float(np.finfo(np.float16).max):
            raise StorageError(
                f"{self.path}: a value of {float(np.abs(array).max()):g} is beyond float16", "write float32"
            )
        values = array.astype(self.dtype, copy=False)
        self._statistics.add(values)
        self._array.write(box, values)

    def close(self) -> None:
        """Complete the file and give it its name.

        Raises
        ------
        ValueError
            If the number of voxels written is not that of the volume.
        StorageError
            If the file cannot be written.
        """
        try:
            if self._statistics.count != self.grid.voxels:
                raise ValueError(f"{self._statistics.count} of {self.grid.voxels} voxels were written to {self.path}")
            _replace(self._finish_zarr() if self._zarr else self._finish_mrc(), Path(self.path))
        except OSError as error:
            raise storage_error(error, self.path) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary files; an output that is complete stays."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()
        shutil.rmtree(self._temporary_zarr, ignore_errors=True)

    def __enter__(self) -> VolumeFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _finish_mrc(self) -> Path:
        header = _mrc_header(self.grid, self.dtype, self._statistics, self.origin_angstrom)
        os.pwrite(self._file.fileno(), header, 0)
        self._file.close()
        return self._temporary

    def _finish_zarr(self) -> Path:
        """Make chunks and levels from the raw array, in a folder of a hidden name."""
        files = Files(str(self._temporary_zarr))
        array = ome_zarr.create_volume(files, "", self.grid, self.dtype.name)
        for box in iterate_chunks(array.format.shape, array.format.shard):
            array.write(box, self._array.read(box).astype(self.dtype, copy=False))
        finish_volume(files, "", self.grid.voxel_spacing_angstrom, mean=not self._labels)
        return self._temporary_zarr


class _RunningStatistics:
    """Smallest and largest value, mean and standard deviation of arrays that come one by one.

    References
    ----------
    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", Am. Stat. 37.
    """

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.lowest, self.highest = math.inf, -math.inf

    @property
    def std(self) -> float:
        return math.sqrt(self._squares / max(1, self.count))

    def add(self, values: NDArray[Any]) -> None:
        """Take in an array (Z, Y, X), in float64."""
        for plane in values:  # a plane at a time bounds the memory
            if plane.size == 0:
                continue
            self.lowest, self.highest = min(self.lowest, float(plane.min())), max(self.highest, float(plane.max()))
            mean = float(plane.mean(dtype=np.float64))
            shift, total = mean - self.mean, self.count + plane.size
            self._squares += float(plane.var(dtype=np.float64)) * plane.size
            self._squares += shift * shift * self.count * plane.size / total
            self.mean += shift * plane.size / total
            self.count = total


def _mrc_header(
    grid: Grid, dtype: np.dtype[Any], statistics: _RunningStatistics, origin_angstrom: tuple[float, float, float]
) -> bytes:
    """Return the 1024 bytes before the voxels of an MRC 2014 volume, little endian; the origin is xyz in Å."""
    from mrcfile.dtypes import HEADER_DTYPE

    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    nz, ny, nx = grid.shape
    for name, value in {"nx": nx, "ny": ny, "nz": nz, "mx": nx, "my": ny, "mz": nz}.items():
        header[name] = value
    header["mode"] = _MRC_MODES[dtype.name]
    for name, length in zip("xyz", grid.size_angstrom, strict=True):
        header["cella"][name] = length
        header["origin"][name] = origin_angstrom["xyz".index(name)]
        header["cellb"][{"x": "alpha", "y": "beta", "z": "gamma"}[name]] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"] = statistics.lowest, statistics.highest
    header["dmean"], header["rms"] = statistics.mean, statistics.std
    header["ispg"], header["nversion"] = 1, 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = b"membrain_cloud"
    return header.tobytes()


def check_output(path: str, *, overwrite: bool) -> None:
    """Refuse an output before anything is computed.

    Parameters
    ----------
    path : str
        The file to write.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    UsageError
        If the name is not that of a local MRC or Zarr, or the file exists and `overwrite` is False.
    """
    if not path.lower().rstrip("/").endswith((".mrc", ".rec", ".map", ".zarr")) or "://" in path:
        raise UsageError(f"{path}: cannot be written as a volume", "give a local .mrc, .rec, .map or .zarr")
    if Path(path).exists() and not overwrite:
        raise UsageError(f"{path}: exists already", "give another output, or set overwrite")


def _replace(source: Path, target: Path) -> None:
    """Rename; a folder that is in the way is moved aside first and removed afterwards."""
    if target.is_dir():
        aside = source.with_name(f"{source.name}.old")
        target.rename(aside)
        source.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        source.replace(target)


def write_mrc(path: str, array: NDArray[Any], voxel_spacing_angstrom: float) -> None:
    """Write an MRC volume atomically; equal arrays give equal bytes.

    Parameters
    ----------
    path : str
        The file to make or replace.
    array : (Z, Y, X) array of bool, integer or float
        Types that MRC does not have are widened: bool and uint8 up to 127 to int8, other uint8 to uint16, large
        integers to uint16 where they fit and else to float32, float64 to float32.
    voxel_spacing_angstrom : float
        For the header.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    import mrcfile

    def write(temporary: Path) -> None:
        with mrcfile.new(str(temporary)) as file:
            file.set_data(_as_mrc_type(array))
            file.set_volume()
            file.voxel_size = voxel_spacing_angstrom
            file.header.label = b""
            file.header.label[0] = b"membrain_cloud"  # mrcfile writes the time of day here
            file.header.nlabl = 1

    write_local_file(path, write)


def _as_mrc_type(array: NDArray[Any]) -> NDArray[Any]:
    top = array.max() if array.size and array.dtype.kind in "biu" else 0
    if array.dtype == bool or (array.dtype == np.uint8 and top <= 127):
        return array.astype(np.int8)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and array.dtype != np.int16:
        return array.astype(np.uint16 if array.min() >= 0 and top <= 65535 else np.float32)
    return array.astype(np.float32) if array.dtype == np.float64 else array

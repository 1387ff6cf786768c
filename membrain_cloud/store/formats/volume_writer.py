"""A volume file that is filled box by box: MRC with right statistics, or OME-Zarr."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import StorageError, UsageError, storage_error
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes import ome_zarr as volumes
from membrain_cloud.store.volumes.scratch_array import RawArray, check_room

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
_MRC_HEADER_BYTES = 1024


class VolumeFileWriter:
    """A volume file that is filled box by box and appears, whole, when it is closed.

    MRC, or OME-Zarr (three levels) where the name ends in .zarr. Boxes may be any, each voxel written once. Until
    `close` all lies in a temporary file beside; leaving `with` by an exception leaves nothing.

    Parameters
    ----------
    dtype : int8, int16, uint16, float16 or float32; uint8 and others in Zarr only.
    origin_angstrom : xyz, for the header of an MRC.
    labels : the levels of a Zarr are made by taking voxels, not by averaging.
    overwrite : replace what is there; otherwise it is refused, before anything is computed.

    Raises UsageError for a name of another kind or one that exists, StorageError where it cannot be written or the
    disk has not the room.
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
        folder, name = os.path.split(os.path.abspath(self.path))
        self._temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
        self._statistics = _Running()
        size = math.prod(shape) * self.dtype.itemsize
        try:
            os.makedirs(folder, exist_ok=True)
            check_room(folder, 2 * size if self._zarr else size, "output takes, with its temporary files,", "--output")
            self._file = open(self._temporary, "w+b")  # noqa: SIM115 - lives as long as the writer
        except OSError as error:
            raise storage_error(error, path) from error
        offset = 0 if self._zarr else _MRC_HEADER_BYTES
        self._array = RawArray(self._file.fileno(), offset, shape, self.dtype.newbyteorder("<"), path)

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Raises StorageError for a full disk, and where float16 has no room for a value."""
        if self.dtype == np.float16 and array.size and float(np.abs(array).max()) > float(np.finfo(np.float16).max):
            raise StorageError(
                f"{self.path}: a value of {float(np.abs(array).max()):g} is beyond float16", "write float32"
            )
        values = array.astype(self.dtype, copy=False)
        self._statistics.add(values)
        self._array.write(box, values)

    def close(self) -> None:
        """Complete the file and give it its name. ValueError unless every voxel was written, once."""
        try:
            if self._statistics.count != self.grid.voxels:
                raise ValueError(f"{self._statistics.count} of {self.grid.voxels} voxels were written to {self.path}")
            finished = self._finish_zarr() if self._zarr else self._finish_mrc()
            _replace(finished, self.path)
        except OSError as error:
            raise storage_error(error, self.path) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)
        shutil.rmtree(f"{self._temporary}.zarr", ignore_errors=True)

    def __enter__(self) -> VolumeFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _finish_mrc(self) -> str:
        header = mrc_header(self.grid, self.dtype, self._statistics, self.origin_angstrom)
        os.pwrite(self._file.fileno(), header, 0)
        self._file.close()
        return self._temporary

    def _finish_zarr(self) -> str:
        """Chunks and levels are made from the raw array; nobody sees them before the folder has its name."""
        folder = f"{self._temporary}.zarr"
        files = Files(folder)
        array = volumes.create_volume(files, "", self.grid, self.dtype.name)
        for box in iterate_chunks(array.format.shape, array.format.chunk):
            array.write(box, self._array.read(box).astype(self.dtype, copy=False))
        volumes.finish_volume(files, "", self.grid.voxel_spacing_angstrom, mean=not self._labels)
        return folder


class _Running:
    """Smallest, largest, mean and standard deviation of what comes by, by Chan's formula in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.lowest, self.highest = math.inf, -math.inf

    @property
    def std(self) -> float:
        return math.sqrt(self._squares / max(1, self.count))

    def add(self, values: NDArray[Any]) -> None:
        for part in values:  # a plane at a time bounds the memory
            if part.size == 0:
                continue
            self.lowest, self.highest = min(self.lowest, float(part.min())), max(self.highest, float(part.max()))
            mean = float(part.mean(dtype=np.float64))
            shift, total = mean - self.mean, self.count + part.size
            self._squares += float(part.var(dtype=np.float64)) * part.size
            self._squares += shift * shift * self.count * part.size / total
            self.mean += shift * part.size / total
            self.count = total


def mrc_header(
    grid: Grid, dtype: np.dtype[Any], statistics: _Running, origin_angstrom: tuple[float, float, float]
) -> bytes:
    """The 1024 bytes before the voxels of an MRC 2014 volume, little endian; the origin is xyz."""
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
    """UsageError for a name whose kind cannot be written, and for one that exists, unless `overwrite`."""
    if not path.lower().rstrip("/").endswith((".mrc", ".rec", ".map", ".zarr")) or "://" in path:
        raise UsageError(f"{path}: cannot be written as a volume", "give a local .mrc, .rec, .map or .zarr")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"{path}: exists already", "give another --output, or --overwrite")


def _replace(source: str, target: str) -> None:
    """Rename; a folder that is in the way is moved aside first and removed after."""
    if os.path.isdir(target):
        aside = f"{source}.old"
        os.rename(target, aside)
        os.rename(source, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(source, target)

"""Volume files of any size, read and written box by box: MRC (also compressed) and OME-Zarr."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np

from membrain_cloud.errors import TomogramError, storage_error
from membrain_cloud.geometry import Box, Grid, Zyx
from membrain_cloud.store.formats import any_volume as exchange
from membrain_cloud.store.formats.mrc import Header, open_mrc
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, check_output
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes import ome_zarr as volumes
from membrain_cloud.store.volumes.ome_zarr import Level
from membrain_cloud.store.volumes.scratch_array import RawArray
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["VolumeFile", "VolumeFileWriter", "check_output", "open_volume_file"]

_MRC, _PACKED = (".mrc", ".rec", ".map", ".st", ".ali"), (".gz", ".bz2")


class _Readable(Protocol):
    def read(self, box: Box) -> NDArray[Any]: ...


class VolumeFile:
    """A volume of a file: its grid's facts, and `read(box)`. Close it, or use it with `with`.

    shape : zyx.  dtype : of what `read` returns.  voxel_spacing_angstrom : None where the file says nothing believable.
    origin_angstrom : of an MRC header, xyz; 0 elsewhere.
    chunk : the box that is read at one go; reading across it costs the same again.
    notes : what was assumed of the file, as sentences.
    """

    def __init__(self, path: str, header: Header, source: _Readable, chunk: Zyx, closing: contextlib.ExitStack) -> None:
        z, y, x = header.shape
        self.path, self.chunk, self.notes = path, chunk, header.notes
        self.shape: Zyx = (z, y, x)
        self.dtype = header.dtype.newbyteorder("=")
        self.voxel_spacing_angstrom, self.origin_angstrom = header.voxel_spacing_angstrom, header.origin
        self._source, self._closing = source, closing

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of `box`, zyx, in the file's type and the machine's byte order, as an array of its own."""
        if self._box.intersection(box) != box:
            raise ValueError(f"{box} is not inside the volume of shape {self.shape}")
        return np.ascontiguousarray(self._source.read(box), self.dtype)

    def spacing_angstrom(self, given: float | None) -> float:
        """What is given goes before the file's own. VoxelSpacingError where neither is known, or it is absurd."""
        own = self.voxel_spacing_angstrom
        return volumes.checked_spacing(own if given is None else given, self.path, "--voxel-spacing 10")

    def levels(self, voxel_spacing_angstrom: float) -> list[Level]:
        """The levels of its pyramid, if the finest has that spacing; only OME-Zarr has coarser ones."""
        finest = Grid(self.shape, voxel_spacing_angstrom)
        if not self.path.lower().rstrip("/").endswith(".zarr"):
            return [Level("", finest, 0.0)]
        files = Files(self.path)
        return volumes.pyramid(files, "", volumes.read_attributes(files, ""), finest)

    def level(self, level: Level) -> VolumeFile:
        """A coarser level as a volume; close this one, not that."""
        array = ChunkedArray.open(Files(self.path), level.path)
        header = Header(level.grid.shape, self.dtype, level.grid.voxel_spacing_angstrom, self.origin_angstrom)
        chunk = tuple(min(a, n) for a, n in zip(array.format.chunk, array.format.shape, strict=True))
        return VolumeFile(self.path, header, array, chunk, contextlib.ExitStack())  # type: ignore[arg-type]

    @property
    def _box(self) -> Box:
        return Box((0, 0, 0), self.shape)

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_volume_file(path: str, scratch: str | None = None) -> VolumeFile:
    """Open .mrc, .rec, .map (also .gz, .bz2), .zarr (OME-Zarr's level 0), .tif or .npy.

    Nothing is loaded: boxes are read from the file. A compressed file is unpacked under `scratch` (default: the
    system's temporary folder) until it is closed.
    Raises TomogramError for what is no readable volume, StorageError where there is no room to unpack, ChunkError
    (at `read`) for a damaged chunk.
    """
    path = path.removeprefix("file://")
    lowered = path.lower().rstrip("/")
    if "://" in path and not lowered.endswith(".zarr"):
        raise TomogramError(f"{path}: of remote files only .zarr can be read in parts", "copy the file here first")
    if "://" not in path and not Path(path).exists():
        raise TomogramError(f"{path}: there is no such file", "check the path")
    with contextlib.ExitStack() as stack:
        if lowered.endswith(tuple(m + p for m in _MRC for p in _PACKED)):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch))
            opened = _open_mrc(path, _unpacked(path, folder), stack)
        elif lowered.endswith(_MRC):
            opened = _open_mrc(path, path, stack)
        elif lowered.endswith(".zarr"):
            opened = _open_zarr(path, stack)
        else:
            source, header = stack.enter_context(exchange.open_volume(path, scratch))
            opened = VolumeFile(path, header, _Sliced(source), (1, *header.shape[1:]), stack)  # type: ignore[arg-type]
        opened._closing = stack.pop_all()
        return opened


class _Sliced:
    def __init__(self, source: Any) -> None:
        self._source = source

    def read(self, box: Box) -> NDArray[Any]:
        return np.array(self._source[box.slices])


class _Turned:
    """An array on disk whose axes are stored in another order: `order[k]` is where axis k of zyx is stored."""

    def __init__(self, array: RawArray, order: list[int]) -> None:
        self._array, self._order = array, order

    def read(self, box: Box) -> NDArray[Any]:
        start, stop = [0, 0, 0], [0, 0, 0]
        for axis, stored in enumerate(self._order):
            start[stored], stop[stored] = box.start[axis], box.stop[axis]
        stored_box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
        return self._array.read(stored_box).transpose(self._order)


def _open_mrc(path: str, unpacked: str, stack: contextlib.ExitStack) -> VolumeFile:
    volume, header = open_mrc(unpacked, header_only=False)
    # open_mrc has turned the axes to zyx; the strides say how they are stored.
    stored = np.argsort([-stride for stride in volume.strides], kind="stable")
    order = [int(k) for k in np.argsort(stored)]
    shape = tuple(header.shape[axis] for axis in stored)
    descriptor = os.open(unpacked, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    raw = RawArray(descriptor, int(volume.offset), shape, volume.dtype, path)
    source: _Readable = raw if order == [0, 1, 2] else _Turned(raw, order)
    z, y, x = (1 if stored_at == 0 else n for stored_at, n in zip(order, header.shape, strict=True))
    return VolumeFile(path, header, source, (z, y, x), stack)


def _unpacked(path: str, folder: str) -> str:
    target = os.path.join(folder, "volume.mrc")
    opener: Any = gzip.open if path.lower().endswith(".gz") else bz2.open
    try:
        with opener(path) as packed, open(target, "wb") as file:
            shutil.copyfileobj(cast("BinaryIO", packed), file, 1 << 24)
    except (EOFError, gzip.BadGzipFile) as error:
        raise TomogramError(f"{path}: the compressed file is damaged ({error})", "copy it again") from error
    except OSError as error:
        if error.errno is None:  # bz2's way of saying that the data are bad
            raise TomogramError(f"{path}: the compressed file is damaged ({error})", "copy it again") from error
        raise storage_error(error, f"{path}, unpacked under {folder}") from error
    return target


def _open_zarr(path: str, stack: contextlib.ExitStack) -> VolumeFile:
    files = Files(path)
    array, _ = volumes.open_volume(files, "", sparse=False)
    header = exchange.read_header(path)
    chunk = volumes.chunk_shape(array.format.shape, 1 << 30)
    z, y, x = (min(a, b) for a, b in zip(array.format.chunk, chunk, strict=True))
    return VolumeFile(path, header, array, (z, y, x), stack)

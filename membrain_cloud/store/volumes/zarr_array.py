"""One chunked array (Zarr version 2 or 3, sharded or not), read and written through zarr with no silent fill.

Every chunk is read by a call of its own, so that an absent, truncated or undecodable chunk raises a ChunkError that
names it, and so that a read holds only a few chunks beside its result.
"""

from __future__ import annotations

import functools
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.storage import StorePath

from membrain_cloud.errors import ChunkError, MembrainCloudError
from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.store.volumes.array_format import COPY_AGAIN, METADATA_NAMES, ArrayFormat
from membrain_cloud.store.volumes.checked_codecs import TruncatedError
from membrain_cloud.store.volumes.files_store import FilesStore, ShardReadStore, WholeWriteStore
from membrain_cloud.store.volumes.inline_loop import run_inline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

# An object store answers in tens of milliseconds: a few requests at a time hide that, and bound the memory.
_CONCURRENT_REQUESTS = 6
# Chunks of nothing but the fill value are written, so that an absent chunk means "not computed".
_CONFIG = {"write_empty_chunks": True, "order": "C"}


class ChunkedArray:
    """One array of a store.

    Parameters
    ----------
    files : Files
        The store.
    path : str
        Path of the array, the folder of its metadata.
    array_format : ArrayFormat
        Its shape, chunks and data type.
    sparse : bool
        Whether an absent chunk means the fill value, as Zarr allows, rather than an error. Default: False.
    """

    def __init__(self, files: Files, path: str, array_format: ArrayFormat, *, sparse: bool = False) -> None:
        self.files = files
        self.path = path
        self.format = array_format
        self.sparse = sparse
        objects = math.prod(-(-n // c) for n, c in zip(array_format.shape, array_format.shard, strict=True))
        self._store = FilesStore(files, path, strict=not sparse, chunks=objects)

    @classmethod
    def open(cls, files: Files, path: str, *, sparse: bool = False, zarr_format: int | None = None) -> ChunkedArray:
        """Open an array.

        Parameters
        ----------
        files : Files
            The store.
        path : str
            Path of the array.
        sparse : bool
            Whether an absent chunk means the fill value. Default: False.
        zarr_format : {2, 3}, optional
            Version of Zarr. Default: 2 if there is such an array, else 3.

        Raises
        ------
        FileNotFoundError
            If there is no array.
        ChunkError, TomogramError
            As `ArrayFormat.parse`.
        """
        text = _read_metadata(files, path, zarr_format)
        return cls(files, path, ArrayFormat.parse(text, f"{files.url}/{path}"), sparse=sparse)

    @classmethod
    def create(cls, files: Files, path: str, array_format: ArrayFormat) -> ChunkedArray:
        """Create an array without chunks.

        Parameters
        ----------
        files : Files
            The store.
        path : str
            Path of the array.
        array_format : ArrayFormat
            Its shape, chunks and data type.
        """
        for name, content in array_format.documents().items():
            files.write(f"{path}/{name}".lstrip("/"), content)
        return cls(files, path, array_format)

    @property
    def box(self) -> Box:
        """All voxels of the array."""
        return Box((0, 0, 0), self.format.shape)

    @functools.cached_property
    def zarr(self) -> Any:
        """The array as zarr's, over a store with the same rule for absent chunks."""
        return zarr.Array(self._through(self._store))

    def _through(self, store: FilesStore) -> Any:
        return zarr.AsyncArray(self.format.metadata, StorePath(store), config=_CONFIG)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box.

        Parameters
        ----------
        box : Box
            The voxels to read.

        Returns
        -------
        ndarray, shape of `box`, dtype of the array
            Values, zyx, in the machine's byte order.

        Raises
        ------
        ChunkError
            If a chunk is absent, truncated or cannot be decoded.
        ValueError
            If the box is not inside the array.
        """
        out = np.empty(box.shape, self.format.dtype.newbyteorder("="))
        cells = list(self._cells(box, self.format.chunk))
        store = self._store
        if self.format.is_sharded:
            store = ShardReadStore(store, index_at_start=self.format.has_index_at_start)
        array = self._through(store)
        lead = (slice(0, 1),) * self.format.lead

        def fetch(cell: tuple[Zyx, Box]) -> None:
            index, chunk_box = cell
            part = chunk_box.intersection(box)
            if part is not None:
                target = out[part.within(box)][(None,) * self.format.lead]
                try:
                    buffer = NDBuffer.from_numpy_array(target)
                    run_inline(array.get_orthogonal_selection(lead + part.slices, out=buffer))
                except MembrainCloudError:
                    raise
                except Exception as error:  # each codec has its own kinds
                    raise self._undecodable(index, error) from error

        if self.files.local or len(cells) == 1:
            for cell in cells:
                fetch(cell)
        else:
            with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
                list(pool.map(fetch, cells))
        return out

    def _undecodable(self, index: Zyx, error: Exception) -> ChunkError:
        name = self.chunk_name(index)
        what = self._store.describe(name)
        if self.format.is_sharded:
            what = f"{what} (its chunk {'/'.join(map(str, index))})"
        if isinstance(error, TruncatedError):
            return ChunkError(f"{what} is truncated: {error}", COPY_AGAIN)
        return ChunkError(f"{what} cannot be decoded ({error})", COPY_AGAIN)

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks, or whole shards where there are some, each by one atomic write.

        Chunks of nothing but the fill value are written too, so that an absent chunk means "not computed".

        Parameters
        ----------
        box : Box
            The voxels to write.
        array : ndarray, shape of `box`, dtype of the array
            Values, zyx.

        Raises
        ------
        ValueError
            If `box` cuts a chunk or a shard, or the dtype is not the array's.
        StorageError
            If a chunk cannot be written.
        """
        if array.shape != box.shape or array.dtype != self.format.dtype.newbyteorder("="):
            raise ValueError(f"{box} asks for {box.shape} {self.format.dtype}, got {array.shape} {array.dtype}")
        unit = "shards" if self.format.is_sharded else "chunks"
        for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True)):
            edge, length = self.format.shard[axis], self.format.shape[axis]
            if start % edge or (stop % edge and stop != length) or not 0 <= start < stop <= length:
                raise ValueError(
                    f"{box} does not consist of whole {unit} of {self.format.shard} in {self.format.shape}"
                )
        array_to_write = self._through(WholeWriteStore(self.files, self.path))
        lead = (slice(0, 1),) * self.format.lead
        for _, part in self._cells(box, self.format.shard):
            value = array[part.within(box)][(None,) * self.format.lead]
            run_inline(array_to_write.setitem(lead + part.slices, value))

    def chunk_name(self, index: Zyx) -> str:
        """Return the name of the object that holds a chunk, relative to the array.

        Parameters
        ----------
        index : tuple of 3 ints
            Index of the chunk along z, y and x.
        """
        z, y, x = (i * c // s for i, c, s in zip(index, self.format.chunk, self.format.shard, strict=True))
        return self.format.object_name((z, y, x))

    def _cells(self, box: Box, edges: Zyx) -> Iterator[tuple[Zyx, Box]]:
        """Iterate over index and clipped box of each cell of a regular grid that `box` touches."""
        outer = self.box.intersection(box)
        if outer != box:
            raise ValueError(f"{box} is not inside the volume of shape {self.format.shape}")
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, edges, strict=True)]
        for index in itertools.product(*ranges):
            start = tuple(i * c for i, c in zip(index, edges, strict=True))
            stop = tuple(min(s + c, n) for s, c, n in zip(start, edges, self.format.shape, strict=True))
            yield index, Box(start, stop)  # type: ignore[misc,arg-type]


def _read_metadata(files: Files, path: str, zarr_format: int | None) -> bytes:
    if zarr_format is not None:
        return files.read(f"{path}/{METADATA_NAMES[zarr_format]}".lstrip("/"))
    try:
        return files.read(f"{path}/{METADATA_NAMES[2]}".lstrip("/"))
    except FileNotFoundError:
        return files.read(f"{path}/{METADATA_NAMES[3]}".lstrip("/"))

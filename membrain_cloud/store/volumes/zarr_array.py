"""One chunked array (Zarr version 2), read and written chunk by chunk with no silent fill.

Zarr's own reader takes a chunk that cannot be fetched for one that was never written, and returns its fill value:
through zarr 2's FSStore a 403 or 503 of an object store becomes a block of zeros. A tomogram with a block of zeros
looks like a tomogram. Here every chunk is fetched by name, and an absent, truncated or undecodable chunk raises a
ChunkError that names it. The format on disk is plain Zarr version 2: zarr, ome-zarr and copick open it, and the tests
hold it to that.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np

from membrain_cloud.errors import ChunkError, StorageError, TomogramError
from membrain_cloud.geometry import Box, Zyx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
_BLOSC_HEADER = 16
# An object store answers in tens of milliseconds: a few requests at a time hide that, and bound the memory.
_CONCURRENT_REQUESTS = 6
# A chunk that is listed, but answered as absent, is requested again: some stores need a moment.
_LISTED_ATTEMPTS = 3
_LISTED_BACK_OFF_SECONDS = 0.2

_COPY_AGAIN = "copy the volume again from its source: a block of zeros in its place would look like data"


@dataclass(frozen=True)
class ArrayFormat:
    """The content of `.zarray`.

    Attributes
    ----------
    shape, chunk : tuple of 3 ints
        Shape of the array and of its chunks, zyx.
    dtype : numpy.dtype
        Data type as stored.
    order : {"C", "F"}
        Order of the voxels in a chunk.
    fill_value : float
        Value of absent chunks.
    compressor : dict or None
        The codec that compresses chunks, as numcodecs' configuration.
    filters : tuple of dict
        The codecs before it.
    separator : str
        Between the indices in a chunk's name.
    lead : int
        Number of axes of length 1 before zyx (time, channel), which are skipped.
    """

    shape: Zyx
    chunk: Zyx
    dtype: np.dtype[Any]
    order: str
    fill_value: float
    compressor: dict[str, Any] | None
    filters: tuple[dict[str, Any], ...]
    separator: str
    lead: int

    @classmethod
    def parse(cls, text: bytes, what: str) -> ArrayFormat:
        """Parse the content of `.zarray`.

        Parameters
        ----------
        text : bytes
            JSON.
        what : str
            The array, for error messages.

        Raises
        ------
        ChunkError
            If the metadata are torn.
        TomogramError
            If the array is not a volume of numbers.
        """
        try:
            meta = json.loads(text)
            shape, chunks = tuple(map(int, meta["shape"])), tuple(map(int, meta["chunks"]))
            dtype = np.dtype(meta["dtype"])
            filters = tuple(meta.get("filters") or ())
            fields = (meta["order"], _fill_value(meta.get("fill_value")), meta["compressor"], filters)
        except (ValueError, KeyError, TypeError) as error:
            raise ChunkError(f"{what}: the array's metadata cannot be read ({error!r})", _COPY_AGAIN) from error
        lead = len(shape) - 3
        if lead < 0 or any(n != 1 for n in shape[:lead]):
            raise TomogramError(f"{what}: shape {shape} is not a volume", "give an array with the axes z, y, x")
        if dtype.kind not in "biuf":
            raise TomogramError(f"{what}: data type {dtype} cannot be read", "convert it to float32 or an integer type")
        if any(n <= 0 for n in shape):
            raise TomogramError(f"{what}: the volume is empty (shape {shape})", "reconstruct or convert it again")
        z, y, x = shape[lead:]
        cz, cy, cx = chunks[lead:]
        separator = str(meta.get("dimension_separator", "."))
        return cls((z, y, x), (cz, cy, cx), dtype, fields[0], fields[1], fields[2], fields[3], separator, lead)

    @classmethod
    def plain(cls, shape: Zyx, chunk: Zyx, dtype: np.dtype[Any]) -> ArrayFormat:
        """Return the format that this package writes: Blosc-lz4, separator "/", little endian.

        Parameters
        ----------
        shape, chunk : tuple of 3 ints
            Shape of the array and of its chunks, zyx.
        dtype : numpy.dtype
            Data type.
        """
        return cls(shape, chunk, np.dtype(dtype).newbyteorder("<"), "C", 0, dict(BLOSC), (), "/", 0)

    def as_json(self) -> bytes:
        """Return the content of `.zarray`."""
        meta = {
            "chunks": list(self.chunk),
            "compressor": self.compressor,
            "dimension_separator": self.separator,
            "dtype": self.dtype.str,
            "fill_value": self.fill_value,
            "filters": None,
            "order": self.order,
            "shape": list(self.shape),
            "zarr_format": 2,
        }
        return json.dumps(meta, indent=4).encode()


def _fill_value(value: Any) -> float:
    return 0 if value is None else float(value) if isinstance(value, str) else value


class ChunkedArray:
    """One array of a store.

    Parameters
    ----------
    files : Files
        The store.
    path : str
        Path of the array, the folder of its `.zarray`.
    array_format : ArrayFormat
        The content of `.zarray`.
    sparse : bool
        Whether an absent chunk means the fill value, as Zarr allows, rather than an error. Default: False.
    """

    def __init__(self, files: Files, path: str, array_format: ArrayFormat, *, sparse: bool = False) -> None:
        self.files = files
        self.path = path
        self.format = array_format
        self.sparse = sparse

    @classmethod
    def open(cls, files: Files, path: str, *, sparse: bool = False) -> ChunkedArray:
        """Open an array.

        Parameters
        ----------
        files : Files
            The store.
        path : str
            Path of the array.
        sparse : bool
            Whether an absent chunk means the fill value. Default: False.

        Raises
        ------
        FileNotFoundError
            If there is no array.
        ChunkError, TomogramError
            As `ArrayFormat.parse`.
        """
        text = files.read(f"{path}/.zarray")
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
        files.write(f"{path}/.zarray", array_format.as_json())
        return cls(files, path, array_format)

    @property
    def box(self) -> Box:
        """All voxels of the array."""
        return Box((0, 0, 0), self.format.shape)

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
        cells = list(self._cells(box))

        def fetch(cell: tuple[Zyx, Box]) -> None:
            index, chunk_box = cell
            part = chunk_box.intersection(box)
            if part is not None:
                out[part.within(box)] = self._read_chunk(index)[part.within(chunk_box)]

        if self.files.local or len(cells) == 1:
            for cell in cells:
                fetch(cell)
        else:
            with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
                list(pool.map(fetch, cells))
        return out

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks, each by one atomic write.

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
            If `box` cuts a chunk, or the dtype is not the array's.
        StorageError
            If a chunk cannot be written.
        """
        if array.shape != box.shape or array.dtype != self.format.dtype.newbyteorder("="):
            raise ValueError(f"{box} asks for {box.shape} {self.format.dtype}, got {array.shape} {array.dtype}")
        for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True)):
            edge, length = self.format.chunk[axis], self.format.shape[axis]
            if start % edge or (stop % edge and stop != length) or not 0 <= start < stop <= length:
                raise ValueError(
                    f"{box} does not consist of whole chunks of {self.format.chunk} in {self.format.shape}"
                )
        for index, chunk_box in self._cells(box):
            self.files.write(f"{self.path}/{self.chunk_name(index)}", self._encode(array[chunk_box.within(box)]))

    def chunk_name(self, index: Zyx) -> str:
        """Return the name of a chunk, relative to the array, by its index, zyx.

        Parameters
        ----------
        index : tuple of int
            Index of the chunk along z, y and x.
        """
        return self.format.separator.join(["0"] * self.format.lead + [str(i) for i in index])

    def _cells(self, box: Box) -> Iterator[tuple[Zyx, Box]]:
        """Iterate over index and clipped box of each chunk that `box` touches."""
        outer = self.box.intersection(box)
        if outer != box:
            raise ValueError(f"{box} is not inside the volume of shape {self.format.shape}")
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, self.format.chunk, strict=True)]
        for index in itertools.product(*ranges):
            start = tuple(i * c for i, c in zip(index, self.format.chunk, strict=True))
            stop = tuple(min(s + c, n) for s, c, n in zip(start, self.format.chunk, self.format.shape, strict=True))
            yield index, Box(start, stop)  # type: ignore[misc,arg-type]

    def _read_chunk(self, index: Zyx) -> NDArray[Any]:
        """Return a chunk; raise ChunkError if it is absent, unless the array is sparse."""
        name = self.chunk_name(index)
        what = f"chunk {name} of {self.files.url}/{self.path}"
        for attempt in range(1, _LISTED_ATTEMPTS + 1):
            try:
                return self._decode(self.files.read(f"{self.path}/{name}"), what)
            except FileNotFoundError:
                if not self._is_listed(name, what):
                    return np.full(self.format.chunk, self.format.fill_value, self.format.dtype)
            except StorageError as error:
                raise ChunkError(f"{what} cannot be read ({error.message})", error.next_step) from error
            time.sleep(_LISTED_BACK_OFF_SECONDS * attempt)
        raise ChunkError(f"{what} is listed, but the store answers that it is absent", "run again; check the store")

    def _is_listed(self, name: str, what: str) -> bool:
        """Return whether the store lists a chunk that it answers as absent; ChunkError if it must not be absent."""
        if not self.files.can_list:
            if self.sparse:
                return False
            raise ChunkError(f"{what} is missing (the server answers that it is absent)", _COPY_AGAIN)
        present = self.files.listing(self.path)
        if name in present or self.sparse:
            return name in present
        chunks = [key for key in present if not key.rsplit("/", 1)[-1].startswith(".")]
        if not chunks:
            raise ChunkError(
                f"{self.files.url}/{self.path}: the volume is empty (created, but no chunk was ever written)",
                "write it again, or remove it",
            )
        total = math.prod(-(-n // c) for n, c in zip(self.format.shape, self.format.chunk, strict=True))
        raise ChunkError(f"{what} is missing ({len(chunks)} of {total} chunks are there)", _COPY_AGAIN)

    def _decode(self, raw: bytes, what: str) -> NDArray[Any]:
        """Return the voxels of a stored chunk, which is always whole, also at the border of the volume."""
        form = self.format
        expected = math.prod(form.chunk) * form.dtype.itemsize
        if form.compressor and form.compressor.get("id") == "blosc":
            # Blosc trusts the length in its header and would read past the end of a shorter buffer.
            length = int.from_bytes(raw[12:16], "little") if len(raw) >= _BLOSC_HEADER else _BLOSC_HEADER
            if length != len(raw):
                raise ChunkError(f"{what} is truncated: {len(raw)} bytes, its header says {length}", _COPY_AGAIN)
        try:
            data: Any = numcodecs.get_codec(form.compressor).decode(raw) if form.compressor else raw
            for codec in reversed(form.filters):
                data = numcodecs.get_codec(codec).decode(data)
            flat = np.frombuffer(data, form.dtype)
        except Exception as error:  # each codec has its own kinds
            raise ChunkError(f"{what} cannot be decoded ({error})", _COPY_AGAIN) from error
        if flat.nbytes != expected:
            raise ChunkError(f"{what} is truncated: {flat.nbytes} bytes decoded of {expected}", _COPY_AGAIN)
        return flat.reshape(form.chunk, order="F" if form.order == "F" else "C")

    def _encode(self, part: NDArray[Any]) -> bytes:
        """Return a chunk as stored. At the border of the volume, the part outside holds the fill value."""
        chunk = np.full(self.format.chunk, self.format.fill_value, self.format.dtype)
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        return bytes(numcodecs.get_codec(self.format.compressor).encode(chunk))

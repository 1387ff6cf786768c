"""One chunked array (Zarr version 2), read and written chunk by chunk with no silent fill.

Zarr's own reader takes a chunk that cannot be fetched for one that was never written and returns its fill value:
through zarr 2's FSStore a 403 or 503 of an object store becomes a block of zeros. A tomogram with a block of zeros
looks like a tomogram, so here every chunk is fetched by name, and its absence, truncation or undecodable content is
a ChunkError that names it. The format on disk is plain Zarr version 2: what is written here opens with zarr, ome-zarr
and copick, and the tests hold it to that.
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
# Object stores answer a chunk in tens of milliseconds: a few requests at once hide that, and bound the memory.
_CONCURRENT_REQUESTS = 6

# A chunk that is listed, and answered as absent, is asked for again: some stores need a moment.
_LISTED_ATTEMPTS = 3
_LISTED_BACK_OFF_SECONDS = 0.2

_COPY_AGAIN = "copy the volume again from its source: a block of zeros in its place would look like data"


@dataclass(frozen=True)
class ArrayFormat:
    """What `.zarray` says. `lead` axes of length 1 before zyx (time, channel) are stepped over."""

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
        """ChunkError for torn metadata; TomogramError for an array that is no volume of numbers."""
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
        """What we write: Blosc-lz4, separator "/", little endian."""
        return cls(shape, chunk, np.dtype(dtype).newbyteorder("<"), "C", 0, dict(BLOSC), (), "/", 0)

    def as_json(self) -> bytes:
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
    files, path : where its `.zarray` lies.
    sparse : whether an absent chunk means the fill value, as Zarr allows. False (the default here): it is an error.
    """

    def __init__(self, files: Files, path: str, form: ArrayFormat, *, sparse: bool = False) -> None:
        self.files = files
        self.path = path
        self.format = form
        self.sparse = sparse

    @classmethod
    def open(cls, files: Files, path: str, *, sparse: bool = False) -> ChunkedArray:
        """FileNotFoundError when there is no array; see `ArrayFormat.parse`."""
        text = files.read(f"{path}/.zarray")
        return cls(files, path, ArrayFormat.parse(text, f"{files.url}/{path}"), sparse=sparse)

    @classmethod
    def create(cls, files: Files, path: str, form: ArrayFormat) -> ChunkedArray:
        files.write(f"{path}/.zarray", form.as_json())
        return cls(files, path, form)

    @property
    def box(self) -> Box:
        return Box((0, 0, 0), self.format.shape)

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of `box`, in the array's own type and the machine's byte order."""
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
        """Write whole chunks, each by one atomic write; ValueError where `box` cuts a chunk or the type differs.

        All-fill chunks are written too, so that absent keeps meaning "not computed".
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
        return self.format.separator.join(["0"] * self.format.lead + [str(i) for i in index])

    def _cells(self, box: Box) -> Iterator[tuple[Zyx, Box]]:
        """Index and clipped box of each chunk that `box` touches."""
        outer = self.box.intersection(box)
        if outer != box:
            raise ValueError(f"{box} is not inside the volume of shape {self.format.shape}")
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, self.format.chunk, strict=True)]
        for index in itertools.product(*ranges):
            start = tuple(i * c for i, c in zip(index, self.format.chunk, strict=True))
            stop = tuple(min(s + c, n) for s, c, n in zip(start, self.format.chunk, self.format.shape, strict=True))
            yield index, Box(start, stop)  # type: ignore[misc,arg-type]

    def _read_chunk(self, index: Zyx) -> NDArray[Any]:
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
        """Of a chunk that is said to be absent: whether the store lists it. ChunkError where it may not be absent."""
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
                f"{self.files.url}/{self.path}: the volume is empty (announced, but no chunk was ever written)",
                "write it again, or remove it",
            )
        total = math.prod(-(-n // c) for n, c in zip(self.format.shape, self.format.chunk, strict=True))
        raise ChunkError(f"{what} is missing ({len(chunks)} of {total} chunks are there)", _COPY_AGAIN)

    def _decode(self, raw: bytes, what: str) -> NDArray[Any]:
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
        """Zarr stores chunks at the border in full: the part outside the volume holds the fill value."""
        chunk = np.full(self.format.chunk, self.format.fill_value, self.format.dtype)
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        return bytes(numcodecs.get_codec(self.format.compressor).encode(chunk))

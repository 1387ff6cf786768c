"""A store of zarr over `Files`, in which an absent chunk is an error.

zarr fills an absent chunk with a value, and so takes a chunk that a server does not find for one that was never
written. A tomogram with a block of zeros looks like a tomogram. Here an absent chunk of a strict array raises a
ChunkError, whatever the version of zarr; all other faults are those of `Files`, which pass through zarr unchanged.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from membrain_cloud.errors import ChunkError, MembrainCloudError, StorageError
from membrain_cloud.store.volumes.array_format import COPY_AGAIN
from membrain_cloud.store.volumes.inline_loop import InlineLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from membrain_cloud.store.objects.object_store import Files

# A chunk that is listed, but answered as absent, is requested again: some stores need a moment.
_LISTED_ATTEMPTS = 3
_LISTED_BACK_OFF_SECONDS = 0.2
# Threads that wait for the store on behalf of zarr's event loop. They use no processor time to speak of.
_WAITING_THREADS = 16
_CHUNK_NAME = re.compile(r"(c[/.])?\d+([/.]\d+)*")
_METADATA = {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"}


class FilesStore(Store):  # type: ignore[misc]  # zarr's types are not followed
    """The objects of one array or group as a store of zarr. Pickles as URL and options of its `Files`.

    Parameters
    ----------
    files : Files
        The store.
    path : str
        Path of the array or group in it. Keys are relative to it. Default: the root.
    strict : bool
        Whether an absent chunk is an error, rather than the fill value. Default: True.
    read_only : bool
        Whether writing is refused. Default: False.
    chunks : int, optional
        Number of chunks or shards of the array, for error messages.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True
    supports_partial_writes = False

    def __init__(
        self, files: Files, path: str = "", *, strict: bool = True, read_only: bool = False, chunks: int | None = None
    ) -> None:
        super().__init__(read_only=read_only)
        self._is_open = True
        self.files = files
        self.path = path.strip("/")
        self.strict = strict
        self.chunks = chunks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FilesStore):
            return NotImplemented
        return (self.files.url, self.path, self.strict) == (other.files.url, other.path, other.strict)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(FilesStore, strict=self.strict, read_only=self.read_only, chunks=self.chunks)
        return make, (self.files, self.path)

    def __repr__(self) -> str:
        return f"FilesStore({self.files.url}/{self.path})"

    def with_read_only(self, read_only: bool = False) -> FilesStore:
        """Return the same objects, with writing refused or allowed."""
        return FilesStore(self.files, self.path, strict=self.strict, read_only=read_only, chunks=self.chunks)

    def describe(self, key: str) -> str:
        """Return the name of a chunk for an error message.

        Parameters
        ----------
        key : str
            Name of the object.
        """
        return f"chunk {key} of {self.files.url}/{self.path}"

    # --- reading ---------------------------------------------------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of an object, or None if it is absent and may be.

        Parameters
        ----------
        key : str
            Name of the object.
        prototype : BufferPrototype, optional
            zarr's kind of buffer. Default: zarr's default.
        byte_range : ByteRequest, optional
            The bytes to read. Default: all.

        Raises
        ------
        ChunkError
            If a chunk is absent from a strict array, listed but not served, empty, or cannot be read for good.
        TransientError
            For a fault that may pass.
        """
        content = self._metadata(key) if is_metadata(key) else self._chunk(key, byte_range)
        return None if content is None else (prototype or default_buffer_prototype()).buffer.from_bytes(content)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of an object as `get_sync`."""
        return await _in_thread(functools.partial(self.get_sync, key, prototype=prototype, byte_range=byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects, one after the other."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        return bool(await _in_thread(functools.partial(self.files.exists, self._name(key))))

    def _name(self, key: str) -> str:
        return f"{self.path}/{key}".strip("/")

    def _metadata(self, key: str) -> bytes | None:
        try:
            return self.files.read(self._name(key))
        except FileNotFoundError:
            return None

    def _chunk(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        for attempt in range(1, _LISTED_ATTEMPTS + 1):
            try:
                content = self._fetch(key, byte_range)
            except FileNotFoundError:
                if not self._is_listed(key):
                    return None
            except StorageError as error:
                raise ChunkError(f"{self.describe(key)} cannot be read ({error.message})", error.next_step) from error
            else:
                expected = _expected_bytes(byte_range)
                if len(content) < expected:
                    raise ChunkError(
                        f"{self.describe(key)} is truncated: {len(content)} of {expected} bytes", COPY_AGAIN
                    )
                return content
            time.sleep(_LISTED_BACK_OFF_SECONDS * attempt)
        raise ChunkError(
            f"{self.describe(key)} is listed, but the store answers that it is absent", "run again; check the store"
        )

    def _fetch(self, key: str, byte_range: ByteRequest | None) -> bytes:
        name = self._name(key)
        if byte_range is None:
            return self.files.read(name)
        if isinstance(byte_range, RangeByteRequest):
            return self.files.read(name, byte_range.start, byte_range.end)
        if isinstance(byte_range, OffsetByteRequest):
            return self.files.read(name, byte_range.offset)
        return self.files.read(name, -byte_range.suffix)

    def _is_listed(self, key: str) -> bool:
        """Return whether the store lists a chunk that it answers as absent; ChunkError if it must not be absent.

        Also an array that may lack chunks is not filled where its chunks are there under other names, or where
        something else lies in the place of the chunk.
        """
        if self.files.local and os.path.lexists(self.files.path(self._name(key))):
            raise ChunkError(f"{self.describe(key)} is a folder, or a link to a file that is not there", COPY_AGAIN)
        if not self.files.can_list:
            if not self.strict:
                return False
            raise ChunkError(f"{self.describe(key)} is missing (the server answers that it is absent)", COPY_AGAIN)
        present = self.files.listing(self.path)
        self._check_names(key, present)
        if key in present or not self.strict:
            return key in present
        chunks = sum(not is_metadata(name) for name in present)
        if not chunks:
            raise ChunkError(
                f"{self.files.url}/{self.path}: the volume is empty (created, but no chunk was ever written)",
                "write it again, or remove it",
            )
        count = f"{chunks} of {self.chunks} chunks are" if self.chunks else f"{chunks} other chunks are"
        raise ChunkError(f"{self.describe(key)} is missing ({count} there)", COPY_AGAIN)

    def _check_names(self, key: str, present: Iterable[str]) -> None:
        """Raise ChunkError if a chunk is a folder, or the chunks that are there have names of another form."""
        form = _form(key)
        for name in present:
            if name.startswith(f"{key}/"):
                raise ChunkError(f"{self.describe(key)} is a folder", COPY_AGAIN)
            if _CHUNK_NAME.fullmatch(name) and _form(name) != form:
                raise ChunkError(
                    f"{self.describe(key)} is missing: the chunks that are there have other names, e.g. {name}",
                    "correct the dimension separator in the array's metadata, or copy the volume again",
                )

    # --- writing ---------------------------------------------------------------------------------------------------

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write an object atomically; errors as `Files.write`."""
        self._check_writable()
        self.files.write(self._name(key), _content(value))

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object as `set_sync`."""
        await _in_thread(functools.partial(self.set_sync, key, value))

    def delete_sync(self, key: str) -> None:
        """Remove an object, if it is there."""
        self._check_writable()
        self.files.remove_object(self._name(key))

    async def delete(self, key: str) -> None:
        """Remove an object as `delete_sync`."""
        await _in_thread(functools.partial(self.delete_sync, key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        self._check_writable()
        await _in_thread(functools.partial(self.files.remove, self._name(prefix)))

    # --- listing ---------------------------------------------------------------------------------------------------

    async def list(self) -> AsyncIterator[str]:
        """Iterate over the names of all objects."""
        async for name in self.list_prefix(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the names of all objects below a prefix."""
        folder = prefix.strip("/")
        for name in await _in_thread(functools.partial(self.files.listing, self._name(folder))):
            yield f"{folder}/{name}".lstrip("/")

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the names directly below a prefix, hidden ones included."""
        listing = await _in_thread(functools.partial(self.files.listing, self._name(prefix.strip("/"))))
        for name in dict.fromkeys(name.partition("/")[0] for name in listing):
            yield name


class WholeWriteStore(FilesStore):
    """A store for writing whole objects: zarr finds no earlier content, and so sends no request to read it."""

    def _chunk(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        return None


class ShardReadStore(FilesStore):
    """A store for one read of a sharded array, which fetches the index of each shard once.

    Parameters
    ----------
    store : FilesStore
        The store of the array.
    index_at_start : bool
        Whether the index of a shard lies before its chunks.
    """

    def __init__(self, store: FilesStore, *, index_at_start: bool) -> None:
        super().__init__(store.files, store.path, strict=store.strict, read_only=True, chunks=store.chunks)
        self._index_at_start = index_at_start
        self._indexes: dict[str, bytes | MembrainCloudError | None] = {}
        self._locks: dict[str, threading.Lock] = {}

    def _chunk(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if not self._is_index(byte_range):
            return super()._chunk(key, byte_range)
        with self._locks.setdefault(key, threading.Lock()):
            if key not in self._indexes:
                try:
                    self._indexes[key] = super()._chunk(key, byte_range)
                except MembrainCloudError as error:  # for the other chunks of the shard, without more requests
                    self._indexes[key] = error
            index = self._indexes[key]
        if isinstance(index, MembrainCloudError):
            raise index
        return index

    def _is_index(self, byte_range: ByteRequest | None) -> bool:
        if self._index_at_start:
            return isinstance(byte_range, RangeByteRequest) and byte_range.start == 0
        return isinstance(byte_range, SuffixByteRequest)


def _content(value: Buffer) -> bytes:
    """Return the bytes of a buffer, without a copy where it was made of bytes."""
    array = value.as_numpy_array()
    base = array.base
    return base if isinstance(base, bytes) and len(base) == array.nbytes else array.tobytes()


def limit_codec_threads(threads: int) -> None:
    """Limit the threads in which zarr encodes and decodes chunks; of effect before the first array is read.

    Parameters
    ----------
    threads : int
        Number of threads: the cores that this process may use.
    """
    zarr.config.set({"threading.max_workers": threads, "codec_pipeline.max_workers": threads})


def _form(name: str) -> str:
    """Return the name of a chunk without its numbers: equal for all chunks of an array."""
    return re.sub(r"\d+", "0", name)


def is_metadata(key: str) -> bool:
    """Return whether an object is metadata, rather than a chunk.

    Parameters
    ----------
    key : str
        Name of the object.
    """
    return key.rpartition("/")[2] in _METADATA


def _expected_bytes(byte_range: ByteRequest | None) -> int:
    """Return the number of bytes that an answer holds at least; no chunk is empty."""
    if isinstance(byte_range, RangeByteRequest):
        return int(byte_range.end - byte_range.start)
    return int(byte_range.suffix) if isinstance(byte_range, SuffixByteRequest) else 1


async def _in_thread(call: functools.partial[Any]) -> Any:
    loop = asyncio.get_running_loop()
    if isinstance(loop, InlineLoop):
        return call()
    return await loop.run_in_executor(_waiting_threads(os.getpid()), call)


@functools.lru_cache(maxsize=1)
def _waiting_threads(_pid: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a fork has none of its parent's."""
    return ThreadPoolExecutor(_WAITING_THREADS, "store")

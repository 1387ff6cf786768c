"""The store of zarr over `Files`: ranges, listings, and the rule for absent chunks."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from membrain_cloud.errors import ChunkError
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.files_store import FilesStore, ShardReadStore, is_metadata, limit_codec_threads

if TYPE_CHECKING:
    from pathlib import Path

PROTOTYPE = default_buffer_prototype()


@pytest.fixture
def store(tmp_path: Path) -> FilesStore:
    """Return the store of a folder `a` with a chunk and metadata."""
    files = Files(str(tmp_path))
    files.write("a/0/0/0", b"0123456789")
    files.write("a/.zarray", b"{}")
    return FilesStore(files, "a", chunks=2)


def content(store: FilesStore, key: str, byte_range: Any = None) -> bytes | None:
    found = sync(store.get(key, PROTOTYPE, byte_range))
    again = store.get_sync(key, byte_range=byte_range)
    assert (found is None) == (again is None)
    if found is None or again is None:
        return None
    assert found.to_bytes() == again.to_bytes()
    return bytes(found.to_bytes())


def test_ranges(store: FilesStore) -> None:
    assert content(store, "0/0/0") == b"0123456789"
    assert content(store, "0/0/0", RangeByteRequest(2, 5)) == b"234"
    assert content(store, "0/0/0", OffsetByteRequest(7)) == b"789"
    assert content(store, "0/0/0", SuffixByteRequest(2)) == b"89"
    parts = sync(store.get_partial_values(PROTOTYPE, [("0/0/0", SuffixByteRequest(1)), (".zarray", None)]))
    assert [part.to_bytes() for part in parts if part is not None] == [b"9", b"{}"]
    for beyond in (RangeByteRequest(8, 12), SuffixByteRequest(11)):
        with pytest.raises(ChunkError, match="truncated"):
            content(store, "0/0/0", beyond)


def test_a_range_reads_only_its_bytes(store: FilesStore) -> None:
    meter = Meter()
    metered = FilesStore(store.files.metered(meter), "a")
    metered.get_sync("0/0/0", byte_range=RangeByteRequest(2, 5))
    assert meter.bytes_read == 3


def test_absent_metadata_is_none_and_an_absent_chunk_is_an_error(store: FilesStore) -> None:
    assert content(store, "zarr.json") is None
    with pytest.raises(ChunkError, match=r"chunk 0/0/1 of .*/a is missing \(1 of 2 chunks are there\)"):
        sync(store.get("0/0/1", PROTOTYPE))
    sparse = FilesStore(store.files, "a", strict=False)
    assert content(sparse, "0/0/1") is None
    assert [is_metadata(key) for key in ("0/.zattrs", "zarr.json", "0/0/0", "c/0")] == [True, True, False, False]


def test_objects_are_listed_written_and_removed(store: FilesStore) -> None:
    async def collect(names: Any) -> list[str]:
        return sorted([name async for name in names])

    sync(store.set("b/1", PROTOTYPE.buffer.from_bytes(b"x")))
    assert sync(collect(store.list())) == [".zarray", "0/0/0", "b/1"]
    assert sync(collect(store.list_prefix("b/"))) == ["b/1"]
    assert sync(collect(store.list_dir(""))) == [".zarray", "0", "b"]
    assert sync(store.exists("b/1"))
    sync(store.delete("b/1"))
    assert not sync(store.exists("b/1"))
    sync(store.delete_dir("0"))
    assert sync(collect(store.list())) == [".zarray"]
    with pytest.raises(ValueError, match="read-only"):
        sync(store.with_read_only(True).set("b/1", PROTOTYPE.buffer.from_bytes(b"x")))


def test_it_pickles_and_compares(store: FilesStore) -> None:
    other = pickle.loads(pickle.dumps(FilesStore(store.files, "a", strict=False)))  # noqa: S301  # our own bytes
    assert (other.strict, other.path, other.files.url) == (False, "a", store.files.url)
    assert other == FilesStore(store.files, "a", strict=False)
    assert other != store
    assert asyncio.run(other.get("0/0/0", PROTOTYPE)).to_bytes() == b"0123456789"


@pytest.mark.parametrize("at_start", [False, True])
def test_the_index_of_a_shard_is_read_once(store: FilesStore, at_start: bool) -> None:
    meter = Meter()
    reader = ShardReadStore(FilesStore(store.files.metered(meter), "a"), index_at_start=at_start)
    index = RangeByteRequest(0, 4) if at_start else SuffixByteRequest(4)
    for _ in range(3):
        reader.get_sync("0/0/0", byte_range=index)
        reader.get_sync("0/0/0", byte_range=RangeByteRequest(5, 6))
    assert meter.bytes_read == 4 + 3


def test_codec_threads_are_limited() -> None:
    before = {name: zarr.config.get(name, None) for name in ("threading.max_workers", "codec_pipeline.max_workers")}
    try:
        limit_codec_threads(3)
        assert zarr.config.get("threading.max_workers") == 3
    finally:
        zarr.config.set(before)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("key", ["0.0.1", "c/0/0/1", "0/0/0/1", "0/1"])
def test_chunks_under_other_names_are_no_absent_chunks(store: FilesStore, key: str, strict: bool) -> None:
    """A wrong separator or number of axes in the metadata must not give a volume of fill values."""
    other = FilesStore(store.files, "a", strict=strict)
    with pytest.raises(ChunkError, match=r"have other names, e\.g\. 0/0/0"):
        other.get_sync(key)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("inside", [None, "x"])
def test_a_folder_or_a_dangling_link_is_no_absent_chunk(
    store: FilesStore, tmp_path: Path, strict: bool, inside: str | None
) -> None:
    other = FilesStore(store.files, "a", strict=strict)
    (tmp_path / "a/0/0/1").mkdir()
    if inside:
        (tmp_path / "a/0/0/1" / inside).write_text("not a chunk")
    (tmp_path / "a/0/0/2").symlink_to(tmp_path / "gone")
    for key in ("0/0/1", "0/0/2"):
        with pytest.raises(ChunkError, match="is a folder"):
            other.get_sync(key)


def test_files_beside_the_chunks_do_not_matter(store: FilesStore, tmp_path: Path) -> None:
    (tmp_path / "a/README.txt").write_text("from the microscope")
    assert FilesStore(store.files, "a", strict=False).get_sync("0/0/1") is None

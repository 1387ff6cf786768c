"""Arrays of every layout are read and written through zarr; faults name the object, and are never zeros."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from membrain_cloud.errors import ChunkError
from membrain_cloud.geometry import Box
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.array_format import ArrayFormat
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

SHAPE = (9, 8, 7)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v3": {"zarr_format": 3},
    "sharded": {"zarr_format": 3, "shard": (4, 4, 4)},
}


@pytest.fixture(params=LAYOUTS)
def array(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedArray:
    """Return an array of a layout, written by this package."""
    array_format = ArrayFormat.plain(SHAPE, (2, 2, 2), np.dtype(np.float32), **LAYOUTS[request.param])
    array = ChunkedArray.create(Files(str(tmp_path)), "a", array_format)
    array.write(array.box, VALUES)
    return ChunkedArray.open(Files(str(tmp_path)), "a")


def first_object(array: ChunkedArray) -> Path:
    return Path(array.files.path(f"a/{array.chunk_name((0, 0, 0))}"))


def test_zarr_reads_what_is_written(array: ChunkedArray) -> None:
    np.testing.assert_array_equal(zarr.open(array.files.path("a"), mode="r")[:], VALUES)
    np.testing.assert_array_equal(array.zarr[3:5, :, 2], VALUES[3:5, :, 2])
    names = {name for name in array.files.listing("a") if "/" not in name}
    assert names == ({".zarray", ".zattrs"} if array.format.zarr_format == 2 else {"zarr.json"})


def test_random_boxes(array: ChunkedArray) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in SHAPE]
        box = Box(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))  # type: ignore[arg-type]
        np.testing.assert_array_equal(array.read(box), VALUES[box.slices])
    with pytest.raises(ValueError, match="not inside"):
        array.read(Box((0, 0, 0), (10, 8, 7)))


def test_an_absent_object_is_the_fill_value_in_sparse_arrays_only(array: ChunkedArray) -> None:
    total = sum("/" in name for name in array.files.listing("a"))
    first_object(array).unlink()
    with pytest.raises(ChunkError, match=rf"{total - 1} of {total} chunks"):
        array.read(array.box)
    with pytest.raises(ChunkError, match="missing"):
        array.zarr[:]
    sparse = ChunkedArray.open(array.files, "a", sparse=True)
    edge = array.format.shard[0]
    expected = VALUES.copy()
    expected[:edge, :edge, :edge] = 0
    np.testing.assert_array_equal(sparse.read(array.box), expected)


@pytest.mark.parametrize("keep", [0, 10, 30, -1, -30])
def test_a_torn_object_is_named(array: ChunkedArray, keep: int) -> None:
    path = first_object(array)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ChunkError, match=f"chunk {array.chunk_name((0, 0, 0))} of .*/a"):
        array.read(array.box)
    with pytest.raises(ChunkError, match=f"chunk {array.chunk_name((0, 0, 0))} of .*/a"):
        array.read(Box((0, 0, 0), (2, 2, 2)))


def test_a_flipped_bit_is_found_where_there_is_a_checksum(array: ChunkedArray) -> None:
    path = first_object(array)
    raw = bytearray(path.read_bytes())
    raw[-5 if array.format.zarr_format == 3 else 5] ^= 8
    path.write_bytes(raw)
    with pytest.raises(ChunkError, match="chunk"):
        array.read(array.box)


def test_only_whole_objects_are_written(array: ChunkedArray) -> None:
    unit = array.format.shard
    for box in (Box((0, 0, 0), (1, 8, 7)), Box((unit[0] // 2 or 1, 0, 0), (9, 8, 7)), Box((1, 0, 0), (9, 8, 7))):
        if box.start[0] % unit[0] or (box.stop[0] % unit[0] and box.stop[0] != SHAPE[0]):
            with pytest.raises(ValueError, match="whole"):
                array.write(box, np.zeros(box.shape, np.float32))
    box = Box((8, 0, 0), (9, 8, 7))
    array.write(box, np.ones(box.shape, np.float32))
    assert (array.read(box) == 1).all()
    np.testing.assert_array_equal(array.read(Box((0, 0, 0), (8, 8, 7))), VALUES[:8])
    with pytest.raises(ValueError, match="asks for"):
        array.write(box, np.ones(box.shape, np.uint8))


def test_the_array_for_zarr_pickles_with_its_rule(array: ChunkedArray) -> None:
    other = pickle.loads(pickle.dumps(array.zarr))  # noqa: S301  # our own bytes
    np.testing.assert_array_equal(other[:], VALUES)
    first_object(array).unlink()
    with pytest.raises(ChunkError, match="missing"):
        other[:]


def test_leading_axes_are_written_and_read(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a"), data=VALUES[None], chunks=(1, 2, 8, 7), zarr_format=2)
    array = ChunkedArray.open(Files(str(tmp_path)), "a")
    np.testing.assert_array_equal(array.read(array.box), VALUES)
    array.write(Box((2, 0, 0), (4, 8, 7)), np.ones((2, 8, 7), np.float32))
    assert (zarr.open_array(str(tmp_path / "a"), mode="r")[0, 2:4] == 1).all()

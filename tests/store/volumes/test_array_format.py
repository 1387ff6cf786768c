"""The metadata of arrays are parsed strictly, and written as other readers expect them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError, TomogramError
from membrain_cloud.store.volumes.array_format import METADATA_NAMES, ArrayFormat

OLD = json.loads(ArrayFormat.plain((4, 4, 4), (2, 2, 2), np.dtype(np.float32)).documents()[".zarray"])
SHARDED = ArrayFormat.plain((8, 6, 5), (2, 2, 2), np.dtype(np.float32), zarr_format=3, shard=(4, 4, 4))
NEW = json.loads(SHARDED.documents()["zarr.json"])


def parsed(content: dict[str, Any], **changes: Any) -> ArrayFormat:
    return ArrayFormat.parse(json.dumps(content | changes).encode(), "a")


def test_leading_axes_are_part_of_the_names() -> None:
    array_format = parsed(OLD, shape=[1, 1, 4, 4, 4], chunks=[1, 1, 2, 2, 2], dimension_separator=".")
    assert (array_format.shape, array_format.chunk, array_format.lead) == ((4, 4, 4), (2, 2, 2), 2)
    assert array_format.object_name((1, 0, 1)) == "0.0.1.0.1"


def test_fill_values() -> None:
    assert parsed(OLD).fill_value == 0
    assert parsed(OLD, fill_value="NaN").fill_value != parsed(OLD, fill_value="NaN").fill_value
    assert parsed(OLD, fill_value=7).fill_value == 7


def test_version_3_with_shards() -> None:
    for found in (SHARDED, parsed(NEW)):
        assert (found.zarr_format, found.shape, found.chunk, found.shard) == (3, (8, 6, 5), (2, 2, 2), (4, 4, 4))
        assert found.is_sharded
        assert not found.has_index_at_start
        assert found.object_name((1, 0, 1)) == "c/1/0/1"
        assert found.dtype == np.float32
    sharding = NEW["codecs"][0]["configuration"]
    assert [codec["name"] for codec in sharding["codecs"]] == ["bytes", "blosc", "crc32c"]
    at_start = sharding | {"index_location": "start"}
    assert parsed(NEW, codecs=[{"name": "sharding_indexed", "configuration": at_start}]).has_index_at_start
    plain = ArrayFormat.plain((8, 6, 5), (2, 2, 2), np.dtype(np.uint8), zarr_format=3)
    assert (plain.is_sharded, plain.shard) == (False, (2, 2, 2))


def test_dimensions_are_named() -> None:
    """Names that xarray reads; it takes a fill value of version 2 for "missing"."""
    documents = ArrayFormat.plain((4, 4, 4), (2, 2, 2), np.dtype(np.uint8)).documents()
    assert list(documents) == [".zattrs", ".zarray"], "the array becomes visible last"
    assert json.loads(documents[".zattrs"]) == {"_ARRAY_DIMENSIONS": ["z", "y", "x"]}
    assert OLD["fill_value"] is None
    assert NEW["dimension_names"] == ["z", "y", "x"]
    assert METADATA_NAMES == {2: ".zarray", 3: "zarr.json"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"shape": [2, 4, 4, 4], "chunks": [1, 2, 2, 2]}, TomogramError),
        ({"shape": [4, 4], "chunks": [2, 2]}, TomogramError),
        ({"shape": [4, 0, 4]}, TomogramError),
        ({"dtype": "<c8"}, TomogramError),
        ({"compressor": {"id": "no-such-codec"}}, TomogramError),
        ({"shape": None}, ChunkError),
        ({"dtype": "nonsense"}, ChunkError),
        ({"zarr_format": None}, ChunkError),
    ],
)
def test_arrays_that_are_not_volumes_are_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        parsed(OLD, **changes)


@pytest.mark.parametrize("text", [b'{"shape": [4', b"[]", b"{}", b"null"])
def test_torn_metadata_is_refused(text: bytes) -> None:
    with pytest.raises(ChunkError, match="metadata"):
        ArrayFormat.parse(text, "a")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "imagecodecs_jpegxl"}]},
            "jpegxl",
        ),
        ({"shape": [8, 6], "dimension_names": ["y", "x"]}, "metadata"),
        ({"data_type": "string"}, "cannot be read"),
        ({"node_type": "group"}, "metadata"),
    ],
)
def test_arrays_of_version_3_that_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises((TomogramError, ChunkError), match=why):
        parsed(NEW, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [10**12] * 3, "chunks": [64] * 3},
        {"shape": [10**30] * 3, "chunks": [64] * 3},
        {"shape": [10**30] * 3, "chunks": [10**30] * 3},
        {"shape": [5000] * 3, "chunks": [1] * 3},
        {"chunks": [0, 2, 2]},
        {"chunks": [2, -2, 2]},
        {"chunks": [2, 2]},
        {"shape": [4, 4, 1e400]},
    ],
)
def test_absurd_metadata_are_refused_when_they_are_read(changes: dict[str, Any]) -> None:
    """Planning lists blocks and chunks in memory: metadata that are damaged must not fill it, or stop a batch."""
    with pytest.raises((TomogramError, ChunkError)):
        parsed(OLD, **changes)


@pytest.mark.parametrize("edge", [0, -4, 10**30])
def test_absurd_chunks_of_version_3_are_refused(edge: int) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": [edge, 4, 4]}}
    with pytest.raises((TomogramError, ChunkError)):
        parsed(NEW, chunk_grid=grid)


def test_the_largest_tomograms_are_read() -> None:
    assert parsed(OLD, shape=[4000, 12000, 12000], chunks=[64, 64, 64]).shape == (4000, 12000, 12000)

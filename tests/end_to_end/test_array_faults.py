"""Arrays of Zarr 2, Zarr 3 and sharded ones in a bucket with faults: errors name the object, none becomes zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError, TransientError
from membrain_cloud.geometry import Box
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.array_format import ArrayFormat
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from standins.fault_proxy import FaultProxy

pytest.importorskip("s3fs")
SHAPE = (16, 24, 28)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v3": {"zarr_format": 3},
    "sharded": {"zarr_format": 3, "shard": (16, 16, 16)},
}
KINDS = ["503", "500", "reset", "truncate", "403", "404"]


@pytest.fixture(scope="module", params=LAYOUTS)
def array(request: pytest.FixtureRequest, proxy: FaultProxy) -> ChunkedArray:
    """Return an array of a layout in a bucket of its own."""
    proxy.calm()
    files = Files(f"s3://arrays-{request.param}", {"key": "x", "secret": "x", "endpoint_url": proxy.url})
    files.filesystem.mkdir(f"arrays-{request.param}")
    array_format = ArrayFormat.plain(SHAPE, (8, 8, 8), np.dtype(np.float32), **LAYOUTS[request.param])
    array = ChunkedArray.create(files, "a", array_format)
    array.write(array.box, VALUES)
    return array


@pytest.mark.parametrize("kind", KINDS)
def test_a_lasting_fault_names_the_object(array: ChunkedArray, proxy: FaultProxy, kind: str) -> None:
    proxy.calm()
    box = array.box if kind == "404" else Box((0, 8, 8), (8, 16, 17))
    name = array.chunk_name((0, 1, 1))
    proxy.rule(f"/a/{name}", kind, method="GET")
    with pytest.raises((TransientError, ChunkError)) as caught:
        array.read(box)
    assert name in caught.value.message
    assert f"{array.files.url}/a" in caught.value.message
    assert isinstance(caught.value, ChunkError) == (kind in ("403", "404"))
    assert kind != "404" or "is listed" in caught.value.message
    proxy.calm()
    np.testing.assert_array_equal(array.read(array.box), VALUES)


@pytest.mark.parametrize("kind", [*KINDS[:4], "reset_after", "404"])
def test_a_fault_that_passes_does_not_change_the_values(array: ChunkedArray, proxy: FaultProxy, kind: str) -> None:
    proxy.calm()
    proxy.rule(f"/a/{array.chunk_name((0, 1, 1))}", kind, times=2, method="GET")
    np.testing.assert_array_equal(array.read(array.box), VALUES)
    assert proxy.met[kind] == 2
    proxy.calm()


@pytest.mark.parametrize("kind", ["503", "reset_after"])
def test_a_write_is_repeated(array: ChunkedArray, proxy: FaultProxy, kind: str) -> None:
    proxy.calm()
    name = array.chunk_name((0, 1, 1))
    proxy.rule(f"/a/{name}", kind, times=2, method="PUT")
    array.write(array.box, VALUES)
    assert proxy.met[kind] == 2
    written = [request for request in proxy.requests if request.startswith("PUT")]
    assert len(set(written)) == len(written) - 2, "an object is written once"
    assert not [request for request in proxy.requests if request.startswith("GET")], "nothing is read before"
    proxy.calm()
    np.testing.assert_array_equal(array.read(array.box), VALUES)


def test_a_window_costs_its_chunks_and_an_index(array: ChunkedArray, proxy: FaultProxy) -> None:
    proxy.calm()
    box = Box((0, 4, 4), (8, 12, 12))
    np.testing.assert_array_equal(array.read(box), VALUES[box.slices])
    read = [request for request in proxy.requests if request.startswith("GET")]
    assert len(read) == (4 + 1 if array.format.is_sharded else 4)
    assert len(proxy.requests) == len(read), "no other request"


def test_a_shard_without_content_is_refused(array: ChunkedArray, proxy: FaultProxy) -> None:
    proxy.calm()
    name = array.chunk_name((0, 1, 1))
    content = array.files.read(f"a/{name}")
    for torn in (b"", content[: len(content) // 2], content[-40:], b"x" * len(content)):
        array.files.write(f"a/{name}", torn)
        for box in (array.box, Box((0, 8, 8), (8, 16, 17))):
            with pytest.raises((ChunkError, TransientError), match=name):
                array.read(box)
    array.files.write(f"a/{name}", content)
    np.testing.assert_array_equal(array.read(array.box), VALUES)

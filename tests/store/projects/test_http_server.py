"""Layers over HTTP for a viewer: only what was added is served, and only with the token."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Mesh
from membrain_cloud.store.projects.http_server import LayerServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import TomogramRef


@pytest.fixture
def server() -> Iterator[LayerServer]:
    with LayerServer() as server:
        yield server


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_volume_as_it_is_stored(server: LayerServer, project: Project, tomogram: TomogramRef) -> None:
    files, path = project.stored(tomogram)
    url = server.add_volume("tomogram", files, path)
    for name in (".zattrs", "0/.zarray", "0/1/0/2"):
        assert fetch(f"{url}/{name}") == (200, files.read(f"{path}/{name}"))
    assert fetch(f"{url}/0/9/9/9")[0] == 404
    assert server.requests[-1] == "tomogram/0/9/9/9"


@pytest.mark.parametrize(
    ("wanted", "status", "slices"),
    [
        ("bytes=3-9", 206, slice(3, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=-999999999", 206, slice(None)),
        ("bytes=999999999-", 416, None),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_part_of_an_object(
    server: LayerServer, project: Project, tomogram: TomogramRef, wanted: str, status: int, slices: slice | None
) -> None:
    files, path = project.stored(tomogram)
    url = server.add_volume("tomogram", files, path)
    request = urllib.request.Request(f"{url}/0/1/0/2", headers={"Range": wanted})
    whole = files.read(f"{path}/0/1/0/2")
    if slices is None:
        with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request, timeout=10):
            pass
        assert caught.value.code == status
        assert caught.value.headers["Content-Range"] == f"bytes */{len(whole)}"
        caught.value.close()
        return
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (status, whole[slices])
        if status == 206:
            first = len(whole[: slices.start]) if slices.start else 0
            last = len(whole) - 1 if slices.stop is None else slices.stop - 1
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    preflight = urllib.request.Request(f"{url}/0/1/0/2", method="OPTIONS")
    with urllib.request.urlopen(preflight, timeout=10) as answer:
        assert answer.headers["Access-Control-Allow-Headers"] == "Range"


def test_ome_zarr_reads_what_is_served(
    server: LayerServer, project: Project, tomogram: TomogramRef, density: np.ndarray
) -> None:
    import zarr

    url = server.add_volume("tomogram", *project.stored(tomogram))
    np.testing.assert_array_equal(zarr.open(f"{url}/0", mode="r")[:], density)


@pytest.mark.parametrize(
    "name",
    ["../config.json", "tomogram/../../config.json", "other/.zattrs", "tomogram", "", "tomogram/%2e%2e/x", "//etc"],
)
def test_nothing_else_is_served(server: LayerServer, project: Project, tomogram: TomogramRef, name: str) -> None:
    server.add_volume("tomogram", *project.stored(tomogram))
    status, body, _ = server.answer("/" + server.url.rsplit("/", 1)[1] + "/" + name)
    assert status == 404
    assert b"membrane" not in body


def test_the_token_is_needed(server: LayerServer, project: Project, tomogram: TomogramRef) -> None:
    url = server.add_volume("tomogram", *project.stored(tomogram))
    assert fetch(url.replace(server.url, server.url[:-4] + "xxxx") + "/.zattrs")[0] == 403
    assert server.url.startswith("http://127.0.0.1:")


def test_a_fault_of_the_store_is_not_an_empty_chunk(
    server: LayerServer, project: Project, tomogram: TomogramRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    from membrain_cloud.errors import StorageError

    files, path = project.stored(tomogram)
    url = server.add_volume("tomogram", files, path)

    def broken(name: str) -> bytes:
        raise StorageError(f"{name}: no permission", "ask")

    monkeypatch.setattr(files, "read", broken)
    assert fetch(f"{url}/0/0/0/0")[0] == 502


def test_meshes_in_neuroglancers_format(server: LayerServer) -> None:
    mesh = Mesh(np.array([[0.0, 10, 20], [100, 0, 0], [0, 100, 0]]), np.array([[0, 1, 2]], np.int32))
    url = server.add_meshes("meshes", {7: mesh})
    assert json.loads(fetch(f"{url}/info")[1]) == {"@type": "neuroglancer_legacy_mesh"}
    (fragment,) = json.loads(fetch(f"{url}/7:0")[1])["fragments"]
    body = fetch(f"{url}/{fragment}")[1]
    assert struct.unpack("<I9f3I", body) == pytest.approx((3, 0, 1, 2, 10, 0, 0, 0, 10, 0, 0, 1, 2))
    assert fetch(f"{url}/8:0")[0] == 404

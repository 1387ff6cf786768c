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
    status, body = server.answer("/" + server.url.rsplit("/", 1)[1] + "/" + name)
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

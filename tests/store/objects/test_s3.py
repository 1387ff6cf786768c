"""A project on S3, served by moto, with a fault proxy in front: faults raise, and never become zeros."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError, StorageError, TransientError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standins.fault_proxy import FaultProxy

    from membrain_cloud.store.projects.project import Project

pytest.importorskip("s3fs")
VALUES = np.random.default_rng(0).normal(size=(20, 24, 28)).astype(np.float32)
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)


@pytest.fixture
def project(proxy: FaultProxy, tmp_path: Any) -> Iterator[Project]:
    """Make a project with one tomogram in a bucket of its own, and the config on disk."""
    bucket = tmp_path.name.replace("_", "-").lower()
    proxy.calm()
    options = {"key": "x", "secret": "x", "endpoint_url": proxy.url}
    Files(f"s3://{bucket}", options)._fs.mkdir(bucket)
    roots = {"overlay_root": f"s3://{bucket}/projects/one", "overlay_fs_args": options}
    objects = [{"name": "membrane", "is_particle": False}]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": objects, **roots}))
    opened = CopickProject.open(str(config))
    opened.write_tomogram(TOMOGRAM, VALUES, chunk=16)
    yield opened
    proxy.calm()


def test_a_project_in_a_bucket(project: Project) -> None:
    assert project.tomograms(None, None, None) == [TOMOGRAM]
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), VALUES)
    labels = SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0)
    project.write_segmentation(labels, (VALUES > 1).astype(np.uint8), chunk=16)
    assert CopickProject.open(project.config).segmentations("TS_1") == [labels]
    np.testing.assert_array_equal(project.read_labels(labels), VALUES > 1)
    before = project.identity(labels)
    project.create_labels(labels, project.grid(labels), "uint8", chunk=16)
    assert project.identity(labels) != before
    mesh = ObjectRef("TS_1", "membrane", "membrain", "1")
    project.write_meshes(mesh, {4: Mesh(np.eye(3) * 100, np.array([[0, 1, 2]], np.int32))})
    project.write_picks(mesh, Picks(np.ones((2, 3))))
    assert list(project.read_meshes(mesh)) == [4]
    assert len(project.read_picks(mesh)) == 2
    project.receipts.write("segment/TS_1", {"digest": "x"})
    assert project.receipts.names() == {"segment/TS_1"}
    assert project.receipts.read("segment/TS_1") == {"digest": "x"}
    project.remove(labels)
    assert not project.has(labels)


def test_a_chunk_costs_one_request(project: Project, proxy: FaultProxy) -> None:
    proxy.requests.clear()
    project.read_density(TOMOGRAM)
    chunks = [request for request in proxy.requests if "/wbp.zarr/0/" in request and ".zarray" not in request]
    assert len(chunks) == 8
    assert all(request.startswith("GET") for request in chunks)


def test_an_identity_costs_few_requests(project: Project, proxy: FaultProxy) -> None:
    """Planning asks for it once a tomogram: metadata of group and array, and a listing of the finest level."""
    proxy.requests.clear()
    project.identity(TOMOGRAM)
    own = [request for request in proxy.requests if "/wbp.zarr" in request or request.endswith("/")]
    assert len(own) <= 4, proxy.requests
    attributes = json.loads(project.files.read(f"{TOMOGRAM.path}/.zattrs"))
    del attributes["membrain_cloud"]
    project.files.write(f"{TOMOGRAM.path}/.zattrs", json.dumps(attributes).encode())
    identity = project.identity(TOMOGRAM)
    proxy.requests.clear()
    assert project.identity(TOMOGRAM) == identity
    names = [request for request in proxy.requests if "/wbp.zarr" in request]
    assert len([name for name in names if name.endswith("zarr.json")]) == 1, "the other version may describe it, too"
    assert len(proxy.requests) <= 6, proxy.requests


def test_a_forbidden_chunk_raises(project: Project, proxy: FaultProxy) -> None:
    proxy.rule("/0/1/0/1", "403")
    with pytest.raises(ChunkError, match=r"chunk 1/0/1 .* cannot be read") as caught:
        project.read_density(TOMOGRAM)
    assert "credentials" in caught.value.next_step


def test_a_listed_chunk_that_is_answered_as_absent_raises(project: Project, proxy: FaultProxy) -> None:
    proxy.rule("/0/1/0/1", "404")
    with pytest.raises(ChunkError, match=r"chunk 1/0/1 .* is listed"):
        project.read_density(TOMOGRAM)


def test_a_removed_chunk_raises(project: Project) -> None:
    project.files.remove(f"{TOMOGRAM.path}/0/0/1/1")
    with pytest.raises(ChunkError, match=r"chunk 0/1/1 .* is missing"):
        project.read_density(TOMOGRAM)


def test_forbidden_receipts_are_not_absent(project: Project, proxy: FaultProxy) -> None:
    project.receipts.write("x", {})
    proxy.rule("/receipts/x.json", "403")
    with pytest.raises(StorageError):
        project.receipts.read("x")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        project.receipts.write("x", {})
    assert "writable" in caught.value.next_step


def test_a_busy_store_is_a_transient_error(project: Project, proxy: FaultProxy) -> None:
    proxy.rule("/0/1/0/1", "503")
    with pytest.raises(TransientError):
        project.read_density(TOMOGRAM)
    proxy.calm()
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), VALUES)


def test_tables_in_a_bucket(proxy: FaultProxy, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are written, read, scanned, checked, compacted, and opened by URL with credentials of the environment."""
    from membrain_cloud import tables as analysis
    from membrain_cloud.store.tables.check import check_tables
    from membrain_cloud.store.tables.parquet_tables import Tables

    bucket = tmp_path.name.replace("_", "-").lower()
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    for name, value in {**credentials, "AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    proxy.calm()
    url = f"s3://{bucket}/some tables"
    store = Tables(url)
    store.files.filesystem.mkdir(bucket)
    keys = {"dataset_id": "10301", "tomogram_id": "wbp", "digest": "x"}
    for run, area in (("TS_1", 1e6), ("TS_2", 3e6)):
        facts = {"n_particles": None, "one_sided_area_nm2": area}
        row = keys | {"run_name": run}
        store.write_part("tomograms", "10301", f"{run}/wbp", [row | {"n_membranes": 1}])
        store.write_part("membranes", "10301", f"{run}/wbp", [row | {"membrane_id": 1} | facts])
    found = analysis.open(url)
    assert found.frame("membranes")["one_sided_area_nm2"].sum() == 4e6
    assert found.dataset("membranes").count_rows() == 2
    assert check_tables(store) == []
    assert store.compact()["membranes"] == {"parts": 2, "rows": 2, "files": 1}
    assert store.compact()["membranes"]["files"] == 0
    store.write_part("membranes", "10301", "TS_2/wbp", [])
    assert store.read("membranes")["run_name"].to_pylist() == ["TS_1"]
    assert found.sql("SELECT count(*) AS n FROM membranes")["n"].tolist() == [1]
    for end in ("TS_1%252Fwbp.parquet", "TS_1%2Fwbp.parquet"):
        proxy.rule(end, "503")
    for folder in ("dataset%3D10301", "dataset=10301"):
        proxy.rule(f"compact/membranes/{folder}/all.parquet", "503")
    with pytest.raises(TransientError):
        store.read("membranes")
    proxy.calm()

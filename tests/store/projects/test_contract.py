"""The contract of `Project`, for each implementation: a copick config or a manifest, on disk or on S3.

A new implementation is right if it passes.
"""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError
from membrain_cloud.geometry import Box, Mesh, Picks
from membrain_cloud.store.objects.io_meter import Meter, checksum
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.manifest import freeze
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SHAPE = (20, 24, 28)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
LABELS = SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0)
INSTANCES = SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0, True)
OBJECT = ObjectRef("TS_1", "membrane", "membrain", "1")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


def make_project(place: str, folder: Path, s3: str) -> Project:
    options = {}
    root = str(folder / "overlay")
    if place == "s3":
        options = {"key": "x", "secret": "x", "endpoint_url": s3}
        bucket = folder.name.replace("_", "-").lower()
        root = f"s3://{bucket}/some/where"
        Files(f"s3://{bucket}", options)._fs.mkdir(bucket)
    else:
        (folder / "overlay").mkdir()
    objects = [{"name": "membrane", "is_particle": False, "label": 1}]
    config = folder / "config.json"
    config.write_text(json.dumps({"overlay_root": root, "overlay_fs_args": options, "pickable_objects": objects}))
    project = CopickProject.open(str(config))
    for run, values in (("TS_1", VALUES), ("TS_2", VALUES + 1)):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), values, chunk=16)
    return project


@pytest.fixture(params=["disk", "s3", "manifest on disk", "manifest on s3"])
def project(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Project:
    """Make a project of each kind, with a tomogram in chunks of 16 in each of two runs."""
    made = make_project("s3" if request.param.endswith("s3") else "disk", tmp_path, s3)
    if not request.param.startswith("manifest"):
        return made
    path = str(tmp_path / "all.parquet")
    assert freeze(made, path, made.tomograms(None, None, None), dataset="d", selection={}) == {}
    return open_project(path)


def test_the_contract_of_a_project(project: Project) -> None:
    """Check all groups of methods on one project: on S3 it takes seconds to make."""
    catalogue(project)
    tomograms(project)
    labels(project)
    features(project)
    meshes_and_picks(project)
    objects_and_receipts(project)
    counting(project)


def catalogue(project: Project) -> None:
    assert project.runs() == ["TS_1", "TS_2"]
    assert project.bad_runs() == {}
    assert project.tomograms(None, None, None) == [TOMOGRAM, TomogramRef("TS_2", "wbp", 10.0)]
    assert project.tomograms(["TS_1"], "wbp", 10.0) == [TOMOGRAM]
    with pytest.raises(ProjectError, match="no run 'TS_3'") as caught:
        project.tomograms(["TS_3"], None, None)
    assert "TS_1" in caught.value.next_step
    with pytest.raises(BadNameError):
        project.tomograms(["../TS_1"], None, None)
    with pytest.raises(ProjectError, match="no tomogram of type denoised"):
        project.tomograms(None, "denoised", None)
    assert project.has(TOMOGRAM)
    assert not project.has(LABELS)
    assert project.segmentations("TS_1") == []


def tomograms(project: Project) -> None:
    grid = project.grid(TOMOGRAM)
    assert (grid.shape, grid.voxel_spacing_angstrom) == (SHAPE, 10.0)
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), VALUES)
    box = Box((3, 5, 7), (18, 20, 25))
    np.testing.assert_array_equal(project.read_density(TOMOGRAM, box), VALUES[box.slices])
    assert project.stored_chunk(TOMOGRAM) == (16, 16, 16)
    assert project.identity(TOMOGRAM) == project.identity(TOMOGRAM)
    assert project.identity(TOMOGRAM) != project.identity(TomogramRef("TS_2", "wbp", 10.0))
    again = pickle.loads(pickle.dumps(project))  # noqa: S301
    np.testing.assert_array_equal(again.read_density(TOMOGRAM), VALUES)
    with pytest.raises(ProjectError):
        project.grid(TomogramRef("TS_1", "wbp", 20.0))
    missing = TomogramRef("TS_2", "wbp", 10.0)
    project.files.remove(f"{missing.path}/0/0/1/1")
    with pytest.raises(ChunkError, match=r"chunk 0/1/1 .* is missing"):
        project.read_density(missing)


def labels(project: Project) -> None:
    mask = (VALUES > 1).astype(np.uint8)
    project.create_labels(LABELS, project.grid(TOMOGRAM), "uint8", 16)
    empty = project.identity(LABELS)
    project.write_labels(LABELS, Box((0, 0, 0), (16, 24, 28)), mask[:16])
    with pytest.raises(ChunkError, match="is missing"):
        project.read_labels(LABELS)
    with pytest.raises(ValueError, match="whole chunks"):
        project.write_labels(LABELS, Box((0, 0, 0), (8, 24, 28)), mask[:8])
    assert not project.is_complete(LABELS)
    project.write_labels(LABELS, Box((16, 0, 0), SHAPE), mask[16:])
    project.finish_labels(LABELS)
    assert project.is_complete(LABELS)
    assert project.identity(LABELS) != empty
    np.testing.assert_array_equal(project.read_labels(LABELS), mask)
    project.write_segmentation(INSTANCES, mask.astype(np.uint16) * 7, 16)
    assert project.segmentations("TS_1") == [LABELS, INSTANCES]
    assert project.segmentation("TS_1", "membrane:membrain/1?instance=true") == INSTANCES
    project.remove(INSTANCES)
    assert project.segmentations("TS_1") == [LABELS]


def features(project: Project) -> None:
    ref = FeaturesRef("TS_1", "wbp", 10.0, "membrane-score-0123abcd")
    project.create_features(ref, project.grid(TOMOGRAM), "float16", 32)
    project.write_features(ref, Box((0, 0, 0), SHAPE), VALUES.astype(np.float16))
    project.finish_features(ref)
    np.testing.assert_array_equal(project.read_features(ref), VALUES.astype(np.float16))
    assert project.features(TOMOGRAM) == [ref]


def meshes_and_picks(project: Project) -> None:
    mesh = Mesh(np.eye(3) * 100, np.array([[0, 1, 2]], np.int32))
    project.write_meshes(OBJECT, {4: mesh})
    project.write_picks(OBJECT, Picks(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_allclose(project.read_meshes(OBJECT)[4].vertices, mesh.vertices)
    np.testing.assert_array_equal(project.read_picks(OBJECT).positions, np.arange(6.0).reshape(2, 3))
    assert project.meshes("TS_1") == project.picks("TS_1") == [OBJECT]
    assert project.object("TS_1", "membrane:membrain/1") == OBJECT
    with pytest.raises(ProjectError, match="there is no mesh"):
        project.object("TS_2", "membrane:membrain/1")
    project.remove(OBJECT)
    assert not project.has(OBJECT)


def objects_and_receipts(project: Project) -> None:
    project.check_writable()
    project.ensure_object("protein", is_particle=True, identifier=None)
    project.ensure_object("protein", is_particle=True, identifier=None)
    with pytest.raises(ProjectError, match="is a particle"):
        project.ensure_object("protein", is_particle=False, identifier=None)
    project.receipts.write("a/b", {"x": 1})
    assert project.receipts.names() == {"a/b"}
    assert open_project(project.config).receipts.read("a/b") == {"x": 1}


def counting(project: Project) -> None:
    """Check that a metered project counts reads and writes, whatever the source of the tomogram."""
    meter = Meter()
    metered = project.metered(meter)
    metered.read_density(TOMOGRAM)
    assert meter.bytes_read > VALUES.nbytes // 2
    metered.write_picks(OBJECT, Picks(np.ones((1, 3))))
    stored = project.files.read(OBJECT.picks_path)
    assert meter.objects == {OBJECT.picks_path: (len(stored), checksum(stored))}
    assert project.files.meter is None

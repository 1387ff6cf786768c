"""`view`: the state that Neuroglancer gets, and the page itself in a real browser."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.pipeline.reporting.neuroglancer import state_of_run
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.http_server import LayerServer
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
MASK = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
INSTANCES = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, True)
MESHES = ObjectRef("TS_1", "membrane", "alice", "1")
PICKS = ObjectRef("TS_1", "psii", "alice", "1")
# True once Neuroglancer has drawn every chunk and mesh in view.
READY = "Boolean(window.viewer && viewer.layerManager.managedLayers.length > 3 && viewer.isReady())"
REFS = {"density": TOMOGRAM, "labels": MASK, "instances": INSTANCES, "meshes": MESHES, "picks": PICKS}


@pytest.fixture
def viewed(tmp_path: Path) -> Project:
    """Make a project with two flat membranes, 3 and 5, in a bright tomogram; a mesh for 3; two picks."""
    project = create_project(
        str(tmp_path / "project"), objects=[("membrane", False, "GO:0016020"), ("psii", True, None)]
    )
    density = np.random.default_rng(0).normal(size=(24, 40, 44)).astype(np.float32)
    labels = np.zeros(density.shape, np.uint8)
    labels[8:11], labels[16:19] = 3, 5
    project.write_tomogram(TOMOGRAM, density, chunk=16)
    project.write_segmentation(INSTANCES, labels, chunk=16)
    project.write_segmentation(MASK, (labels > 0).astype(np.uint8), chunk=16)
    corners = np.array([[0.0, 0, 90], [430, 0, 90], [430, 390, 90], [0, 390, 90]])
    project.write_meshes(MESHES, {3: Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))})
    normals = orientations_from_normals(np.array([[0.0, 0, 1], [0, 0, 1]]))
    project.write_picks(PICKS, Picks(np.array([[100.0, 100, 120], [300, 200, 120]]), normals))
    return project


def test_state(viewed: Project) -> None:
    with LayerServer() as server:
        state = state_of_run(viewed, "TS_1", REFS, (), server)
    layers = {layer["name"]: layer for layer in state["layers"]}
    assert list(layers) == [
        "tomogram",
        "mask membrane:alice/1@10",
        "membranes membrane:alice/1@10",
        "picks psii:alice/1",
    ]
    membranes = layers["membranes membrane:alice/1@10"]
    assert membranes["segments"] == ["3", "5"]
    assert [source.split("://")[0] for source in membranes["source"]] == ["zarr", "precomputed"]
    assert layers["mask membrane:alice/1@10"]["visible"] is False
    low, high = layers["tomogram"]["shaderControls"]["normalized"]["range"]
    assert -3.5 < low < -1.5 < 1.5 < high < 3.5
    points = layers["picks psii:alice/1"]["annotations"]
    assert points[0]["point"] == [100.0, 100.0, 120.0]
    assert points[2]["pointB"] == [100.0, 100.0, 220.0]
    assert state["position"] == [220.0, 200.0, 120.0]


def test_absent_data_are_left_out_and_further_uris_added(viewed: Project) -> None:
    viewed.remove(PICKS)
    with LayerServer() as server:
        state = state_of_run(
            viewed, "TS_1", {"density": TOMOGRAM, "labels": MASK}, ("membrane:alice/1?instance=true",), server
        )
        assert [layer["type"] for layer in state["layers"]] == ["image", "segmentation", "segmentation"]
        again = state_of_run(viewed, "TS_1", REFS, ("membrane:alice/1?instance=true", "membrane:alice/1"), server)
        names = [layer["name"] for layer in again["layers"]]
        assert len(names) == len(set(names)) == 3
        with pytest.raises(ProjectError):
            state_of_run(viewed, "TS_1", REFS, ("psii:unknown/1",), server)
        with pytest.raises(ProjectError, match="there is no tomogram"):
            state_of_run(viewed, "TS_1", {}, (), server)


def test_the_page_shows_everything(viewed: Project, browser_kit: Any, tmp_path: Path) -> None:
    """Neuroglancer in headless Chromium requests chunks and meshes and draws them in colour."""
    pytest.importorskip("neuroglancer")
    words = ["view", viewed.config, "-r", "TS_1", "--no-browser", "--stop-after", "120"]
    words += ["--stages", "separate,mesh,measure", "--set", "separate.segmentation=membrane:alice/1@10?instance=true"]
    words += ["--set", "measure.picks=psii:alice/1", "--with", "membrane:alice/1@10"]
    command = [sys.executable, "-m", "membrain_cloud", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url + server.stdout.read()
        picture = tmp_path / "page.png"
        with browser_kit.Browser(tmp_path / "profile") as browser:
            title = browser.open(url, picture, READY)
        assert title == "neuroglancer"
        assert [error for error in browser.errors if "exceptionThrown" in error] == []
    finally:
        server.terminate()  # SIGINT is ignored where the tests run in the background
        server.wait(timeout=30)
        if server.stdout is not None:
            server.stdout.close()
        server.stdout.close()
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    grey = (spread < 4) & (pixels.min(axis=2) > 60) & (pixels.max(axis=2) < 220)
    assert grey.mean() > 0.05, "the tomogram is drawn"
    assert (spread > 60).mean() > 0.01, "membranes are drawn in colour"
    assert picture.stat().st_size > 20_000

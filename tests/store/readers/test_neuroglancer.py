"""Neuroglancer in a real browser reads our labels voxel by voxel, in both formats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.geometry import Grid
from membrain_cloud.report.neuroglancer_page import NeuroglancerPage
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.http_server import LayerServer
from membrain_cloud.store.volumes.ome_zarr import create_volume
from membrain_cloud.store.volumes.pyramid import finish_volume

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.volumes.ome_zarr import OmeVersion

GRID = Grid((12, 15, 300), 10.0)
PLANE = 5
# What the sources of each layer say, and its values at POINTS (x, y, z in Å); "" where a chunk has not come yet.
FOUND = """viewer.layerManager.managedLayers.map(({name, layer}) => ({
  name,
  states: layer.dataSources.map(({loadState}) => !loadState ? "" : loadState.error ? String(loadState.error) : "ok"),
  values: POINTS.map(point => {
    const found = layer.renderLayers.map(each => each.getValueAt?.(new Float32Array(point)));
    return found.map(value => value === undefined || value === null ? "" : String(value)).find(text => text) ?? "";
  }),
}))"""
READY = f"""Boolean(window.viewer && viewer.layerManager.managedLayers.length > 3 && {FOUND}.every(
  ({{states, values}}) => states.every(text => text) && (states[0] !== "ok" || values.every(text => text))))"""


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_neuroglancer_reads_voxels(version: OmeVersion, browser_kit: Any, tmp_path: Path) -> None:
    pytest.importorskip("neuroglancer")
    labels = np.where(np.random.default_rng(0).normal(size=GRID.shape) > 0.5, 300, 0).astype(np.uint16)
    labels[:, :, 200:] *= 2
    volumes = {
        "mask": (labels > 0).astype(np.uint8),
        "instances": labels,
        "scores": (labels // 3).astype(np.uint8),
        "float16": labels.astype(np.float16),
    }
    files = Files(str(tmp_path / "project"))
    points = [(x, y) for x in range(3, 300, 37) for y in range(2, 15, 4)]
    with LayerServer() as server, browser_kit.Browser(tmp_path / "profile") as browser:
        layers = []
        for name, values in volumes.items():
            array = create_volume(files, f"{name}.zarr", GRID, values.dtype.name, version=version)
            array.write(GRID.box, values)
            finish_volume(files, f"{name}.zarr", 10.0, mean=False)
            kind = "segmentation" if name in ("mask", "instances") else "image"
            source = f"zarr://{server.add_volume(name, files, f'{name}.zarr')}"
            layers.append({"type": kind, "name": name, "source": source})
        state = {
            "dimensions": {axis: [1e-10, "m"] for axis in "xyz"},
            "position": [1500.0, 70.0, PLANE * 10.0],
            "crossSectionScale": 3,
            "layers": layers,
            "layout": "xy",
        }
        page = NeuroglancerPage(state, bind="127.0.0.1", port=0)
        at = json.dumps([[x * 10.0, y * 10.0, PLANE * 10.0] for x, y in points])  # voxel i has its centre at i
        ready, found = (text.replace("POINTS", at) for text in (READY, f"JSON.stringify({FOUND})"))
        answer = browser.open(page.url, tmp_path / "page.png", ready, found)
    layer = {each["name"]: each for each in json.loads(answer)}
    for name in ("mask", "instances", "scores"):
        assert layer[name]["states"] == ["ok"]
        assert layer[name]["values"] == [str(volumes[name][PLANE, y, x]) for x, y in points], name
    # Neuroglancer has no type for half precision: docs/copick-tools.md says so.
    assert "f2" in layer["float16"]["states"][0] or "float16" in layer["float16"]["states"][0]

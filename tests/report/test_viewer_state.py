"""The state of Neuroglancer: layers in Å, in their order, with sources and colours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from membrain_cloud.geometry import Grid, Picks, orientations_from_normals
from membrain_cloud.report.viewer_state import NORMAL_LENGTH_ANGSTROM, View, ViewedSegmentation, viewer_state

GRID = Grid((100, 200, 400), 10.0)


def test_layers_have_sources_and_labels() -> None:
    segmentations = [ViewedSegmentation("membranes", "http://a", [1, 7], "http://m"), ViewedSegmentation("x", "u", [])]
    state = viewer_state(View(GRID, "http://t", (-1.0, 2.0), segmentations, {}))
    assert json.loads(json.dumps(state)) == state
    tomogram, membranes, other = state["layers"]
    assert tomogram["source"] == "zarr://http://t"
    assert tomogram["shaderControls"]["normalized"]["range"] == [-1.0, 2.0]
    assert membranes["source"] == ["zarr://http://a", "precomputed://http://m"]
    assert membranes["segments"] == ["1", "7"]
    assert other["source"] == ["zarr://u"]
    assert state["position"] == [2000.0, 1000.0, 500.0]
    assert state["dimensions"]["x"] == [1e-10, "m"]


def test_particles_are_points_and_lines_along_their_axes() -> None:
    picks = Picks(np.array([[10.0, 20.0, 30.0]]), orientations_from_normals(np.array([[0.0, 1.0, 0.0]])))
    bare = Picks(np.zeros((2, 3)))
    first, second = viewer_state(View(GRID, None, (0.0, 1.0), [], {"b": picks, "a": bare}))["layers"]
    assert [layer["name"] for layer in (first, second)] == ["a", "b"]
    assert first["annotationColor"] != second["annotationColor"]
    assert [item["type"] for item in first["annotations"]] == ["point", "point"]
    point, line = second["annotations"]
    assert point["point"] == line["pointA"] == [10.0, 20.0, 30.0]
    assert line["pointB"] == pytest.approx([10.0, 20.0 + NORMAL_LENGTH_ANGSTROM, 30.0])

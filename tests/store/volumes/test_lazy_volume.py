"""Coordinates of a level from multiscales metadata, and positions of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.errors import VoxelSpacingError
from membrain_cloud.store.volumes.lazy_volume import level_coordinates, positions


def metadata(*levels: list[dict[str, Any]], whole: Any = None) -> dict[str, Any]:
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = [{"path": str(k), "coordinateTransformations": steps} for k, steps in enumerate(levels)]
    multiscale = {"axes": axes, "datasets": datasets} | ({"coordinateTransformations": whole} if whole else {})
    return {"multiscales": [multiscale]}


def scale(*values: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(values)}


def shift(*values: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(values)}


def test_the_transformation_of_the_multiscale_comes_last() -> None:
    attributes = metadata([scale(1, 1, 2), shift(1, 0, 3)], whole=[scale(10, 10, 10), shift(0, 0, 5)])
    along = level_coordinates(attributes, 0, (2, 2, 2), "a")
    np.testing.assert_allclose([along[axis] for axis in "zyx"], [[10, 20], [0, 10], [35, 55]])


def test_positions_are_of_centres() -> None:
    np.testing.assert_allclose(positions(3, 10.0, 5.0), [5.0, 15.0, 25.0])


@pytest.mark.parametrize("attributes", [{}, {"multiscales": []}, metadata([]), metadata([shift(1, 1, 1)])])
def test_without_a_scale_there_are_no_coordinates(attributes: dict[str, Any]) -> None:
    assert level_coordinates(attributes, 0, (2, 2, 2), "a") == {}


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(value: float) -> None:
    with pytest.raises(VoxelSpacingError, match="a scale of"):
        level_coordinates(metadata([scale(1, value, 1)]), 0, (2, 2, 2), "a")


def test_a_scale_in_a_file_is_refused() -> None:
    with pytest.raises(VoxelSpacingError, match="cannot be read"):
        level_coordinates(metadata([{"type": "scale", "path": "scales"}]), 0, (2, 2, 2), "a")


def test_other_axes_are_refused_by_name() -> None:
    attributes = metadata([scale(1, 1, 1)])
    attributes["multiscales"][0]["axes"][0]["name"] = "depth"
    with pytest.raises(VoxelSpacingError, match="depth"):
        level_coordinates(attributes, 0, (2, 2, 2), "a")

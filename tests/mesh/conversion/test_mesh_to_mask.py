"""The inside of closed meshes, as a region of interest."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from membrain_cloud.geometry import Box, Grid, Mesh
from membrain_cloud.mesh.conversion.mesh_to_mask import inside_mesh, is_closed

GRID = Grid((40, 50, 60), 10.0)
MIDDLE = np.array([301.0, 252.0, 203.0])  # beside voxel centres, so that none lies on a surface


def ball(radius: float) -> Mesh:
    shape = trimesh.creation.icosphere(4, radius=radius)
    return Mesh(np.array(shape.vertices, float) + MIDDLE, np.array(shape.faces, np.int32))


def away() -> np.ndarray:
    places = np.moveaxis(np.indices(GRID.shape)[::-1], 0, -1) * 10.0
    return np.linalg.norm(places - MIDDLE, axis=-1)


def test_inside_a_ball() -> None:
    inside = inside_mesh(ball(150.0), GRID, GRID.box)
    distance = away()
    assert inside[distance < 149.0].all()
    assert not inside[distance > 150.5].any()
    box = Box((5, 7, 11), (30, 20, 50))
    np.testing.assert_array_equal(inside_mesh(ball(150.0), GRID, box), inside[box.slices])


def test_a_shell_is_inside_between_its_surfaces() -> None:
    outer, inner = ball(150.0), ball(80.0)
    shell = Mesh(
        np.concatenate([outer.vertices, inner.vertices]),
        np.concatenate([outer.faces, inner.faces[:, ::-1] + len(outer.vertices)]).astype(np.int32),
    )
    inside, distance = inside_mesh(shell, GRID, GRID.box), away()
    assert inside[(distance > 80.5) & (distance < 149.0)].all()
    assert not inside[(distance < 79.0) | (distance > 150.5)].any()


def test_a_mesh_with_a_hole_has_no_inside() -> None:
    whole = ball(150.0)
    open_mesh = Mesh(whole.vertices, whole.faces[1:])
    turned = whole.faces.copy()
    turned[0] = turned[0, ::-1]
    assert is_closed(whole)
    assert not is_closed(open_mesh)
    assert not is_closed(Mesh(whole.vertices, turned))
    assert not is_closed(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)))
    with pytest.raises(ValueError, match="not closed"):
        inside_mesh(open_mesh, GRID, GRID.box)

"""The split of a shell in two leaflets."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import marching_cubes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.leaflets import split_leaflets
from membrain_cloud.mesh.surface import Surface


def shell_of(distance: np.ndarray, spacing: float = 10.0) -> Surface:
    """Return the surface where a signed distance (xyz grid, voxels, negative inside) is 0, wound outwards."""
    vertices, faces, _, _ = marching_cubes(distance, 0.0)
    surface = Surface(Mesh(vertices.astype(np.float64) * spacing, faces.astype(np.int32)))
    if surface.volume < 0:
        surface = Surface(Mesh(surface.vertices, surface.faces[:, ::-1]))
    return surface


def grid(*shape: int) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in shape), indexing="ij"), axis=-1)


def bowl(turn: np.ndarray) -> Surface:
    """Return part of a spherical slab: radius 16, thickness 5, open at one end, about a turned axis."""
    places = grid(46, 46, 46) @ turn
    radius = np.linalg.norm(places, axis=-1)
    return shell_of(np.maximum(np.abs(radius - 16.0) - 2.5, places[..., 2] - 6.0))


@pytest.mark.parametrize("seed", range(3))
def test_an_open_bowl_is_split_along_its_rim(seed: int) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    surface = bowl(turn)
    groups = split_leaflets(surface)
    assert groups is not None
    centre = (surface.vertices[surface.faces].mean(axis=1) / 10.0 - 22.5) @ turn
    radius = np.linalg.norm(centre, axis=1)
    outer, inner = radius > 17.7, radius < 14.3
    assert (groups[outer] == 0).mean() > 0.99
    assert (groups[inner] == 1).mean() > 0.99
    assert Surface(surface.mesh, groups).n_components == 2


def test_a_vesicle_has_an_outer_and_an_inner_leaflet() -> None:
    radius = np.linalg.norm(grid(44, 44, 44), axis=-1)
    surface = shell_of(np.abs(radius - 16.0) - 2.0)
    groups = split_leaflets(surface)
    assert groups is not None
    outer = np.linalg.norm(surface.vertices[surface.faces].mean(axis=1) / 10.0 - 21.5, axis=1) > 16.0
    np.testing.assert_array_equal(groups, np.where(outer, 0, 1))


def test_surfaces_without_two_sides_are_not_split() -> None:
    ball = shell_of(np.linalg.norm(grid(30, 30, 30), axis=-1) - 10.0)
    assert split_leaflets(ball) is None
    opened = Surface(Mesh(ball.vertices, ball.faces[5:]))
    assert split_leaflets(opened) is None
    assert split_leaflets(Surface(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)))) is None


def test_the_split_does_not_depend_on_position_or_numbering() -> None:
    surface = bowl(np.eye(3))
    groups = split_leaflets(surface)
    rng = np.random.default_rng(0)
    vertices, faces = rng.permutation(len(surface.vertices)), rng.permutation(len(surface.faces))
    moved = Mesh((surface.vertices + 500.0)[vertices], np.argsort(vertices)[surface.faces[faces]].astype(np.int32))
    other = split_leaflets(Surface(moved))
    assert groups is not None
    assert other is not None
    assert (other == groups[faces]).mean() > 0.999

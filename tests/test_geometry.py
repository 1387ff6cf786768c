"""Grids, blocks and their lattice; unit conversion."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.geometry import (
    Box,
    Grid,
    Mesh,
    iterate_chunks,
    orientations_from_normals,
)


def test_voxels_and_angstrom_are_inverse_and_swap_the_axes() -> None:
    grid = Grid((96, 160, 200), 7.84)
    zyx = np.array([[1.0, 2.5, 3.0]])
    xyz = grid.to_angstrom(zyx)
    np.testing.assert_allclose(xyz, [[3 * 7.84, 2.5 * 7.84, 7.84]])
    np.testing.assert_allclose(grid.to_voxels(xyz), zyx)
    assert grid.size_angstrom == pytest.approx((200 * 7.84, 160 * 7.84, 96 * 7.84))


def test_intersection_of_boxes_apart_is_none() -> None:
    assert Box((0, 0, 0), (2, 2, 2)).intersection(Box((2, 0, 0), (3, 2, 2))) is None


def test_chunks_are_clipped_to_the_volume() -> None:
    boxes = list(iterate_chunks((5, 4, 3), (4, 4, 4)))
    assert [b.shape for b in boxes] == [(4, 4, 3), (1, 4, 3)]


def test_mesh_area_and_normals() -> None:
    square = Mesh(
        np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0], [0, 3, 0]], float), np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    )
    assert square.area_angstrom2() == pytest.approx(6.0)
    np.testing.assert_allclose(square.vertex_normals(), np.tile([0, 0, 1.0], (4, 1)))


def test_orientations_have_the_normal_as_z_axis_for_every_normal() -> None:
    rng = np.random.default_rng(0)
    normals = rng.standard_normal((50, 3))
    normals = np.concatenate([normals / np.linalg.norm(normals, axis=1, keepdims=True), np.eye(3), -np.eye(3)])
    turned = orientations_from_normals(normals, rng.uniform(0, 6, len(normals)))
    np.testing.assert_allclose(turned[:, :, 2], normals, atol=1e-12)
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), np.tile(np.eye(3), (len(normals), 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned), 1.0)

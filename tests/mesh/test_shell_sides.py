"""The two sides of shells whose form is known, and the surface between them."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.geometry import Box, Grid, Mesh
from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.mesh.shell_sides import membrane_sides, middle_surface, side_of

SPACING = 10.0


def shell(mask: np.ndarray) -> Mesh:
    grid = Grid(mask.shape, SPACING)
    mesh = mesh_membrane(mask, Box((0, 0, 0), mask.shape), grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
    assert mesh is not None
    return mesh


def vesicle(radius: float, size: int) -> np.ndarray:
    places = np.indices((size,) * 3) - (size - 1) / 2
    return np.abs(np.linalg.norm(places, axis=0) - radius) <= 2.75


def test_a_vesicle_has_an_outer_and_an_inner_side() -> None:
    radius, size = 20.0, 56
    mesh = shell(vesicle(radius, size))
    middle = np.full(3, (size - 1) / 2 * SPACING)
    sides = membrane_sides(mesh, reach_angstrom=120.0)
    outer = np.linalg.norm(mesh.vertices - middle, axis=1) > radius * SPACING
    assert (sides.side[outer] == 1).mean() > 0.99
    assert (sides.side[~outer] == 2).mean() > 0.99
    assert np.nanmedian(sides.thickness) == pytest.approx(55, abs=6)
    assert side_of(mesh, sides, middle) == 2
    assert side_of(mesh, sides, middle + np.array([270.0, 0, 0])) == 1
    between = middle_surface(mesh, sides)
    # the number by which a phantom's area is judged
    assert between.area_angstrom2() == pytest.approx(4 * np.pi * (radius * SPACING) ** 2, rel=0.015)
    away = between.vertices - middle
    assert np.abs(np.linalg.norm(away, axis=1) - radius * SPACING).max() < 6.0
    assert ((away * between.vertex_normals()).sum(axis=1) > 0).all()


def test_a_sheet_has_two_sides_and_a_rim() -> None:
    mask = np.zeros((24, 60, 60), bool)
    mask[9:15, 8:52, 8:52] = True
    mesh = shell(mask)
    sides = membrane_sides(mesh, reach_angstrom=120.0)
    up = mesh.vertex_normals()[:, 2]
    assert len(set(sides.side[up > 0.99])) == 1
    assert len(set(sides.side[up < -0.99])) == 1
    assert set(sides.side[up > 0.99]) != set(sides.side[up < -0.99])
    assert (sides.side[np.abs(up) < 0.5] == 0).all()
    between = middle_surface(mesh, sides)
    off = np.abs(between.vertices[:, 2] - 11.5 * SPACING)
    assert np.median(off) < 0.5
    assert off.max() < 8.0  # beside the rim
    assert 380.0**2 < between.area_angstrom2() < 440.0**2  # without the rounded rim
    above = side_of(mesh, sides, np.array([300.0, 300.0, 200.0]))
    assert {above, side_of(mesh, sides, np.array([300.0, 300.0, 0.0]))} == {1, 2}


@pytest.mark.parametrize(("cut", "bend"), [(0, 0.0), (12, 0.0), (20, 0.0), (0, 2.0)])
def test_sides_stay_apart_though_edges_lead_around_the_rim(cut: int, bend: float) -> None:
    mask = vesicle(20.0, 56)[cut:]
    places = np.indices(mask.shape) - 27.5
    # a ragged hole, as segmentations have them
    around = np.arctan2(places[1], places[2])
    mask &= ~((places[0] > 0) & (np.hypot(places[1], places[2]) < 9.0 + bend * np.sin(5 * around)))
    mesh = shell(mask)
    sides = membrane_sides(mesh, reach_angstrom=120.0)
    middle = np.full(3, 275.0) - [0.0, 0.0, cut * SPACING]
    outer = np.linalg.norm(mesh.vertices - middle, axis=1) > 200.0
    assert (sides.side > 0).mean() > 0.8
    assert (sides.side[outer & (sides.side > 0)] == 1).mean() > 0.96
    assert (sides.side[~outer & (sides.side > 0)] == 2).mean() > 0.96
    assert np.nanmedian(sides.thickness) == pytest.approx(55, abs=6)


def test_a_surface_without_another_side_is_all_rim() -> None:
    places = np.indices((40,) * 3) - 19.5
    mesh = shell(np.linalg.norm(places, axis=0) <= 15)
    sides = membrane_sides(mesh, reach_angstrom=120.0)
    assert not sides.side.any()
    assert np.isnan(sides.thickness).all()
    assert len(middle_surface(mesh, sides).faces) == 0
    assert side_of(mesh, sides, np.zeros(3)) == 0


def test_an_empty_mesh() -> None:
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))
    sides = membrane_sides(nothing, reach_angstrom=100.0)
    assert len(sides.side) == 0
    assert len(middle_surface(nothing, sides).vertices) == 0

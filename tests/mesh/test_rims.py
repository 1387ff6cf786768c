"""Rims of sheets, belts and cut spheres are told from leaflets: areas and lengths against closed forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Box, Grid
from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.mesh.leaflets import leaflet_sides
from membrain_cloud.mesh.rims import rim_faces, rim_length
from membrain_cloud.mesh.surface import Surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACING = 10.0


def sheet(size_nm: int, thickness_nm: int) -> NDArray[np.bool_]:
    """Return the mask of a square sheet."""
    mask = np.zeros((thickness_nm + 16, size_nm + 20, size_nm + 20), bool)
    mask[8 : 8 + thickness_nm, 10 : 10 + size_nm, 10 : 10 + size_nm] = True
    return mask


def zone(radius_nm: int, low: float, high: float) -> NDArray[np.bool_]:
    """Return the mask of the part of a sphere, 4 nm thick, whose height over radius is between `low` and `high`."""
    half = radius_nm + 12
    z, y, x = np.mgrid[-half : half + 1, -half : half + 1, -half : half + 1]
    r = np.sqrt(x * x + y * y + z * z)
    return np.asarray((np.abs(r - radius_nm) <= 2.0) & (z >= low * r) & (z <= high * r))


def measured(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the one-sided area (nm²) and the length of the rim (nm)."""
    box = Box((0, 0, 0), mask.shape)
    mesh = mesh_membrane(mask, box, Grid(mask.shape, SPACING), smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
    assert mesh is not None
    shell, kept = Surface(mesh), np.full(len(mesh.faces), True)
    sides = leaflet_sides(shell)
    assert sides is not None
    rim = rim_faces(shell, sides[0], kept)
    return float(shell.face_areas[~rim].sum()) / 200.0, rim_length(shell, sides[1], kept) / 10.0


@pytest.mark.parametrize(("size", "thickness", "within"), [(30, 4, 0.04), (30, 6, 0.04), (60, 4, 0.02), (60, 6, 0.02)])
def test_the_area_of_a_sheet_is_that_of_one_side(size: int, thickness: int, within: float) -> None:
    area, length = measured(sheet(size, thickness))
    assert area == pytest.approx(size**2, rel=within)
    assert length == pytest.approx(4 * size, rel=0.03)


@pytest.mark.parametrize("radius", [20, 30])
def test_the_area_of_a_belt_is_that_of_the_zone_of_a_sphere(radius: int) -> None:
    """The missing wedge leaves a belt of a vesicle."""
    area, length = measured(zone(radius, -0.866, 0.866))
    assert area == pytest.approx(4.0 * np.pi * radius**2 * 0.866, rel=0.02)
    assert length == pytest.approx(2 * 2.0 * np.pi * radius * 0.5, rel=0.03)


def test_a_cut_sphere_has_the_area_of_its_cap() -> None:
    # the half voxel below the middle of the lowest voxels belongs to the mask
    area, length = measured(zone(30, 0.0, 1.0))
    assert area == pytest.approx(2.0 * np.pi * 30.0 * 30.5, rel=0.02)
    assert length == pytest.approx(2.0 * np.pi * 30.0, rel=0.03)


def test_a_closed_vesicle_has_no_rim() -> None:
    area, length = measured(zone(30, -2.0, 2.0))
    assert area == pytest.approx(4.0 * np.pi * 30.0**2, rel=0.01)
    assert length == 0.0

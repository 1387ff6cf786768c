"""Euler angles of other programs, and in-plane angles: symmetry, two ways into the plane, undefined angles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from membrain_cloud.rotations import (
    in_plane_angle_degrees,
    in_plane_angles_degrees,
    orientations_from_relion_angles,
    orientations_from_zxz_angles,
    relion_angles,
    zxz_angles,
)

CONVERSIONS = [(relion_angles, orientations_from_relion_angles), (zxz_angles, orientations_from_zxz_angles)]
IDS = ["relion", "zxz"]


def rotated(degrees: np.ndarray | float, tilt: float = 0.0) -> np.ndarray:
    about_z = Rotation.from_euler("z", np.reshape(degrees, (-1, 1)), degrees=True)
    return (Rotation.from_euler("x", tilt, degrees=True) * about_z).as_matrix()


@pytest.mark.parametrize(("to_angles", "to_matrices"), CONVERSIONS, ids=IDS)
def test_angles_rebuild_orientations_near_and_at_gimbal_lock(to_angles, to_matrices) -> None:
    inclinations = [0.0, 1e-8, 1e-5, 1e-3, 1.0, 90.0, 179.0, 180.0 - 1e-5, 180.0]
    angles = [(first, tilt, last) for tilt in inclinations for first in (-170.0, 0.0, 33.0) for last in (-90.0, 120.0)]
    for orientations in (
        Rotation.random(1000, random_state=0).as_matrix(),
        Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(),
        np.zeros((0, 3, 3)),
    ):
        np.testing.assert_allclose(to_matrices(to_angles(orientations)), orientations, atol=3e-9)


@pytest.mark.parametrize(("to_angles", "to_matrices"), CONVERSIONS, ids=IDS)
@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_where_one_angle_is_undefined_the_first_is_zero(to_angles, to_matrices, tilt: float) -> None:
    angles = to_angles(rotated(np.array([0.0, 40.0, -100.0]), tilt))
    np.testing.assert_array_equal(angles[:, 0], 0.0)
    np.testing.assert_allclose(angles[:, 1], tilt, atol=1e-12)
    assert len(set(np.round(angles[:, 2], 6))) == 3


def test_the_closed_forms_are_scipys_angles() -> None:
    rotations = Rotation.random(1000, random_state=0)
    for angles, expected in (
        (relion_angles(rotations.as_matrix()), rotations.inv().as_euler("ZYZ", degrees=True)),
        (zxz_angles(rotations.as_matrix()), rotations.as_euler("zxz", degrees=True)),
    ):
        np.testing.assert_allclose(angles, expected, atol=1e-9)


@pytest.mark.parametrize("symmetry", [1, 2, 3, 6])
def test_rotations_by_the_symmetry_change_nothing(symmetry: int) -> None:
    rng = np.random.default_rng(symmetry)
    first, second = Rotation.random(50, random_state=1).as_matrix(), Rotation.random(50, random_state=2).as_matrix()
    angles = in_plane_angles_degrees(first, second, symmetry=symmetry, way="turned")
    assert (angles >= 0.0).all()
    assert (angles <= 180.0 / symmetry + 1e-9).all()
    steps = rng.integers(0, symmetry, 50) * 360.0 / symmetry
    again = in_plane_angles_degrees(first, second @ rotated(steps), symmetry=symmetry, way="turned")
    np.testing.assert_allclose(again, angles, atol=1e-5)
    back = in_plane_angles_degrees(second, first, symmetry=symmetry, way="turned")
    np.testing.assert_allclose(back, angles, atol=1e-5)


def test_c2_is_the_smaller_of_an_angle_and_its_supplement() -> None:
    for angle in (10.0, 80.0, 100.0, 170.0):
        folded = in_plane_angle_degrees(rotated(0.0)[0], rotated(angle)[0], symmetry=2)
        assert folded == pytest.approx(min(angle, 180.0 - angle))


def test_projection_is_that_of_membrain_stats() -> None:
    """Both y axes less their parts along the mean normal, and the angle between the rests."""
    first, second = Rotation.random(30, random_state=3).as_matrix(), Rotation.random(30, random_state=4).as_matrix()
    normals = np.random.default_rng(5).normal(size=(30, 3))
    angles = in_plane_angles_degrees(first, second, symmetry=1, way="projected", normals=normals)
    for one, other, normal, angle in zip(first, second, normals, angles, strict=True):
        unit = normal / np.linalg.norm(normal)
        flat = [y - (y @ unit) * unit for y in (one[:, 1], other[:, 1])]
        cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        assert angle == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)


def test_on_a_flat_membrane_both_ways_agree() -> None:
    first, second = rotated(np.array([5.0, 50.0])), rotated(np.array([65.0, 200.0]))
    up = np.tile([0.0, 0.0, 2.0], (2, 1))
    for way in ("turned", "projected"):
        angles = in_plane_angles_degrees(first, second, symmetry=1, way=way, normals=up)  # type: ignore[arg-type]
        np.testing.assert_allclose(angles, [60.0, 150.0])


def test_undefined_angles_are_nan() -> None:
    upright, nan = rotated(0.0), np.full((1, 3, 3), np.nan)
    along = np.array([[0.0, 1.0, 0.0]])
    assert np.isnan(in_plane_angles_degrees(upright, nan, symmetry=1, way="turned")).all()
    assert np.isnan(in_plane_angles_degrees(upright, rotated(0.0, tilt=180.0), symmetry=1, way="turned")).all()
    assert in_plane_angle_degrees(upright[0], rotated(0.0, tilt=180.0)[0]) is None
    assert np.isnan(in_plane_angles_degrees(upright, upright, symmetry=1, way="projected", normals=along)).all()
    assert np.isnan(in_plane_angles_degrees(upright, upright, symmetry=1, way="projected", normals=0.0 * along)).all()
    with pytest.raises(ValueError, match="normals"):
        in_plane_angles_degrees(upright, upright, symmetry=1, way="projected")

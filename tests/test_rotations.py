"""In-plane angles: symmetry, the two ways into the plane, and what is not known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from membrain_cloud.rotations import in_plane_angle_degrees, in_plane_angles_degrees


def turned(degrees: np.ndarray | float, tilt: float = 0.0) -> np.ndarray:
    about_z = Rotation.from_euler("z", np.reshape(degrees, (-1, 1)), degrees=True)
    return (Rotation.from_euler("x", tilt, degrees=True) * about_z).as_matrix()


@pytest.mark.parametrize("symmetry", [1, 2, 3, 6])
def test_turns_by_the_symmetry_change_nothing(symmetry: int) -> None:
    rng = np.random.default_rng(symmetry)
    ones, others = Rotation.random(50, random_state=1).as_matrix(), Rotation.random(50, random_state=2).as_matrix()
    found = in_plane_angles_degrees(ones, others, symmetry=symmetry, way="turned")
    assert (found >= 0.0).all()
    assert (found <= 180.0 / symmetry + 1e-9).all()
    steps = rng.integers(0, symmetry, 50) * 360.0 / symmetry
    again = in_plane_angles_degrees(ones, others @ turned(steps), symmetry=symmetry, way="turned")
    np.testing.assert_allclose(again, found, atol=1e-5)
    back = in_plane_angles_degrees(others, ones, symmetry=symmetry, way="turned")
    np.testing.assert_allclose(back, found, atol=1e-5)


def test_c2_is_the_smaller_of_an_angle_and_its_supplement() -> None:
    for angle in (10.0, 80.0, 100.0, 170.0):
        found = in_plane_angle_degrees(turned(0.0)[0], turned(angle)[0], symmetry=2)
        assert found == pytest.approx(min(angle, 180.0 - angle))


def test_projection_is_that_of_membrain_stats() -> None:
    """Both y axes less their parts along the mean normal, and the angle between the rests."""
    ones, others = Rotation.random(30, random_state=3).as_matrix(), Rotation.random(30, random_state=4).as_matrix()
    normals = np.random.default_rng(5).normal(size=(30, 3))
    found = in_plane_angles_degrees(ones, others, symmetry=1, way="projected", normals=normals)
    for one, other, normal, angle in zip(ones, others, normals, found, strict=True):
        unit = normal / np.linalg.norm(normal)
        flat = [y - (y @ unit) * unit for y in (one[:, 1], other[:, 1])]
        cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        assert angle == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)


def test_on_a_flat_membrane_both_ways_agree() -> None:
    ones, others = turned(np.array([5.0, 50.0])), turned(np.array([65.0, 200.0]))
    up = np.tile([0.0, 0.0, 2.0], (2, 1))
    for way in ("turned", "projected"):
        found = in_plane_angles_degrees(ones, others, symmetry=1, way=way, normals=up)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, [60.0, 150.0])


def test_what_has_no_angle_is_nan() -> None:
    good, nan = turned(0.0), np.full((1, 3, 3), np.nan)
    along = np.array([[0.0, 1.0, 0.0]])
    assert np.isnan(in_plane_angles_degrees(good, nan, symmetry=1, way="turned")).all()
    assert np.isnan(in_plane_angles_degrees(good, turned(0.0, tilt=180.0), symmetry=1, way="turned")).all()
    assert np.isnan(in_plane_angles_degrees(good, good, symmetry=1, way="projected", normals=along)).all()
    assert np.isnan(in_plane_angles_degrees(good, good, symmetry=1, way="projected", normals=0.0 * along)).all()
    with pytest.raises(ValueError, match="normals"):
        in_plane_angles_degrees(good, good, symmetry=1, way="projected")

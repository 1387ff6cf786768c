"""Gaps and contacts between membranes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.geometry import Mesh
from membrain_cloud.statistics.membrane.gaps import find_gaps, min_distance_angstrom
from membrain_cloud.statistics.rows.membrane_pairs import membrane_pair_rows


def test_two_sheets(shapes: Any) -> None:
    """Both sheets' normals point up: the lower one faces the upper one 20 nm away, the upper one faces nothing."""
    meshes = {3: shapes.plane(30, 20.0), 7: shapes.plane(30, 20.0, height=200.0)}
    gaps = find_gaps(meshes, reach_angstrom=500.0)
    assert np.isfinite(gaps[3].to_next).all()
    np.testing.assert_allclose(gaps[3].to_next, 200.0, rtol=1e-6)
    assert (gaps[3].next_id == 7).all()
    assert np.isinf(gaps[7].to_next).all()
    (row,) = membrane_pair_rows(3, gaps[3], meshes, contact_angstrom=150.0)
    area = meshes[3].area_angstrom2() / 100.0
    assert row["other_membrane_id"] == 7
    assert row["min_distance_nm"] == pytest.approx(20.0)
    assert row["median_gap_nm"] == pytest.approx(20.0)
    assert row["facing_area_nm2"] == pytest.approx(area)
    assert row["contact_area_nm2"] == 0.0
    (row,) = membrane_pair_rows(3, gaps[3], meshes, contact_angstrom=201.0)
    assert row["contact_area_nm2"] == pytest.approx(area)
    assert membrane_pair_rows(7, gaps[7], meshes, contact_angstrom=201.0) == []
    assert np.isinf(find_gaps(meshes, reach_angstrom=150.0)[3].to_next).all()


def test_vesicles_face_each_other_and_themselves(shapes: Any) -> None:
    """Along a radius at angle t from the line of centres, the gap to the other sphere has a closed form."""
    radius, inner, away = 300.0, 260.0, 700.0
    meshes = {1: shapes.vesicle(radius, inner), 2: shapes.vesicle(radius, inner, (away, 0.0, 0.0))}
    gaps = find_gaps(meshes, reach_angstrom=1000.0)
    one = meshes[1]
    middle = one.vertices[one.faces].mean(axis=1)
    outer = np.linalg.norm(middle, axis=1) > 280.0
    facing = outer & np.isfinite(gaps[1].to_next)
    cosine = middle[facing, 0] / np.linalg.norm(middle[facing], axis=1)
    along = away * cosine - np.sqrt(radius**2 - away**2 * (1 - cosine**2) + 0.0j).real
    near = cosine > 0.95
    np.testing.assert_allclose(gaps[1].to_next[facing][near], along[near] - radius, atol=6.0)
    # the inner surface faces itself across the lumen; the shell's other side is a thickness away
    np.testing.assert_allclose(gaps[1].to_itself[~outer], 2 * inner, rtol=0.02)
    np.testing.assert_allclose(gaps[1].across, radius - inner, atol=4.0)
    rows = {row["other_membrane_id"]: row for row in membrane_pair_rows(1, gaps[1], meshes, contact_angstrom=150.0)}
    assert rows[2]["min_distance_nm"] == pytest.approx(10.0, abs=0.2)
    assert rows[1]["min_distance_nm"] is None
    assert rows[1]["median_gap_nm"] == pytest.approx(2 * inner / 10.0, rel=0.02)
    # area of the sphere where the gap is below 15 nm, by quadrature over the angle
    t = np.linspace(0.0, np.arcsin(radius / away) * 0.999, 20_000)
    gap = away * np.cos(t) - np.sqrt(radius**2 - (away * np.sin(t)) ** 2) - radius
    widest = t[gap <= 150.0].max()
    assert rows[2]["contact_area_nm2"] == pytest.approx(
        2 * np.pi * 30.0**2 * (1 - np.cos(widest)), rel=0.1
    )  # whole faces
    other = {row["other_membrane_id"]: row for row in membrane_pair_rows(2, gaps[2], meshes, contact_angstrom=150.0)}
    assert other[1]["min_distance_nm"] == pytest.approx(rows[2]["min_distance_nm"])


def test_no_mesh_and_no_area_give_no_gaps(shapes: Any) -> None:
    assert find_gaps({}, reach_angstrom=10.0) == {}
    assert find_gaps({1: Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))}, reach_angstrom=10.0) == {}
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32))
    assert np.isinf(find_gaps({1: shapes.plane(4, 10.0), 2: flat}, reach_angstrom=100.0)[2].to_next).all()


def test_the_shortest_distance_of_two_spheres(shapes: Any) -> None:
    one, other = shapes.sphere(400, 100.0), shapes.sphere(300, 80.0, (0.0, 0.0, 230.0))
    assert min_distance_angstrom(one, other) == pytest.approx(50.0, abs=1.0)
    assert min_distance_angstrom(one, other) == min_distance_angstrom(other, one)

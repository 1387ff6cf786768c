"""Bad meshes and particles give NULL, or an error for one membrane: never a wrong number, never a stop."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.repair import repaired
from membrain_cloud.statistics.measure import Membrane, measure_tomogram
from membrain_cloud.statistics.schema.membranes import MEMBRANES

CENTRE = (1000.0, 1000.0, 1000.0)
GRID = Grid((200, 200, 200), 10.0)


def with_faces(mesh: Mesh, *more: tuple[int, int, int]) -> Mesh:
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, np.array(more)]).astype(np.int32))


def picks_of(mesh: Mesh, numbers: list[int]) -> Picks:
    normals = mesh.vertex_normals()[numbers]
    return Picks(mesh.vertices[numbers], orientations_from_normals(normals))


def test_one_bad_membrane_has_an_error_and_the_others_are_measured(shapes: Any, options: Any) -> None:
    good = shapes.sphere(300, 200.0, CENTRE)
    nan = Mesh(good.vertices.copy(), good.faces)
    nan.vertices[[4, 9]] = np.nan
    meshes = {
        1: good,
        2: nan,
        3: Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)),
        4: Mesh(good.vertices, good.faces + 200),
        5: Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32)),
        6: Mesh(good.vertices, np.array([[0, 0, 1], [2, 3, 2]], np.int32)),
        7: shapes.sphere(200, 100.0, (1500.0, 1000.0, 1000.0)),
    }
    membranes = {
        number: Membrane(mesh, Picks(good.vertices[:5]), np.zeros(len(mesh.vertices), bool), "a")
        for number, mesh in meshes.items()
    }
    tables = measure_tomogram(membranes, grid=GRID, options=options, kinds=["a"])
    rows = {row["membrane_id"]: row for row in tables["membranes"]}
    assert list(rows) == [1, 2, 3, 4, 5, 6, 7]
    assert {number: row["error"] is None for number, row in rows.items()} == {
        1: True, 2: False, 3: False, 4: False, 5: False, 6: False, 7: True
    }  # fmt: skip
    assert rows[2]["error"] == "2 of the 300 vertices in use are not finite"
    assert "no faces" in rows[3]["error"]
    assert "does not exist" in rows[4]["error"]
    assert "no area" in rows[5]["error"]
    for number in (2, 3, 4, 5, 6):
        unknown = [column.name for column in MEMBRANES if column.name != "error"]
        assert [rows[number][name] for name in unknown] == [None] * len(unknown)
    assert {row["membrane_id"] for row in tables["particles"]} == {1, 7}
    alone = measure_tomogram({1: membranes[1]}, grid=GRID, options=options, kinds=["a"])
    assert [row for row in tables["particles"] if row["membrane_id"] == 1] == alone["particles"]


def numbers_of(tables: Any) -> dict[str, float]:
    (row,) = tables["membranes"]
    names = ("one_sided_area_nm2", "volume_nm3", "euler_characteristic", "n_components", "mean_curvature_p50_per_nm")
    return {name: row[name] for name in names}


def test_faults_that_can_be_repaired_change_no_number(shapes: Any, measure: Any) -> None:
    good = shapes.sphere(400, 200.0, CENTRE)
    picks = picks_of(good, [0, 50, 100, 150])
    plain = measure(good, picks)
    stray = np.concatenate([good.vertices, [[np.nan, 0.0, 0.0], [5e4, 0.0, 0.0]]])
    a, b, c = good.faces[7].tolist()
    repairable = {
        "unreferenced vertices": Mesh(stray, good.faces),
        "a face twice": with_faces(good, (a, b, c), (b, c, a)),
        "faces that name a vertex twice": with_faces(good, (3, 3, 4), (5, 6, 5)),
        "inside out": shapes.inside_out(good),
    }
    for what, mesh in repairable.items():
        tables = measure(mesh, picks)
        assert numbers_of(tables) == pytest.approx(numbers_of(plain)), what
        for one, other in zip(plain["neighbors"], tables["neighbors"], strict=True):
            assert one == pytest.approx(other), what
        assert tables["particles"][0]["normal_z"] == pytest.approx(plain["particles"][0]["normal_z"])


def test_a_needle_without_area_stops_nothing(shapes: Any, measure: Any) -> None:
    """A needle: a face without area between an edge and a vertex on its middle."""
    plane = shapes.plane(12, 20.0)
    corner = len(plane.vertices)
    vertices = np.concatenate([plane.vertices, plane.vertices[[0, 1]].mean(axis=0, keepdims=True)])
    mesh = with_faces(Mesh(vertices, plane.faces), (0, 1, corner))
    picks = Picks(np.array([[60.0, 60.0, 0.0], [120.0, 60.0, 0.0]]))
    rows = measure(mesh, picks)["neighbors"]
    assert [row["geodesic_nm"] for row in rows] == pytest.approx([6.0, 6.0], rel=1e-3)
    assert measure(mesh, picks)["membranes"][0]["one_sided_area_nm2"] == pytest.approx(
        plane.area_angstrom2() / 100.0, rel=1e-6
    )


def test_an_open_or_non_manifold_shell_has_no_volume(shapes: Any, measure: Any) -> None:
    good = shapes.sphere(400, 200.0, CENTRE)
    fin = Mesh(
        np.concatenate([good.vertices, [[1000.0, 1000.0, 1300.0]]]),
        np.concatenate([good.faces, [[good.faces[0, 0], good.faces[0, 1], 400]]]).astype(np.int32),
    )
    for mesh, manifold in ((Mesh(good.vertices, good.faces[3:]), True), (fin, False)):
        (row,) = measure(replace(mesh, surface="shell"), picks_of(good, [0, 10]))["membranes"]
        assert (row["volume_nm3"], row["thickness_nm"], row["lumen_volume_nm3"]) == (None, None, None)
        assert (row["is_manifold"], row["is_closed"], row["has_edge"]) == (manifold, False, True)
        assert row["one_sided_area_nm2"] == pytest.approx(mesh.area_angstrom2() / 200.0)


def test_components_share_no_neighbours(shapes: Any, measure: Any) -> None:
    mesh = shapes.joined(shapes.sphere(200, 100.0, CENTRE), shapes.sphere(200, 100.0, (1201.0, 1000.0, 1000.0)))
    picks = Picks(np.array([[1100.0, 1000.0, 1000.0], [1101.0, 1000.0, 1000.0], [1000.0, 1100.0, 1000.0]]))
    tables = measure(mesh, picks)
    assert {(row["particle_id"], row["target_id"]) for row in tables["neighbors"]} == {(0, 2), (2, 0)}
    assert tables["membranes"][0]["euler_characteristic"] == 4


def test_no_particle_one_particle_and_three_in_one_place(shapes: Any, measure: Any) -> None:
    mesh = shapes.sphere(300, 200.0, CENTRE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = measure(mesh, Picks(np.zeros((0, 3))), kinds=["a"], n_simulations=2)
        assert none["membranes"][0]["n_particles"] == 0
        # without particles of the class, all area lies beyond reach
        to_class = [row for row in none["membrane_histograms"] if row["property"] == "distance_to_a_nm"]
        assert [row["bin"] for row in to_class] == [19]
        one = measure(mesh, picks_of(mesh, [5]), n_simulations=2)
        assert [len(one[table]) for table in ("particles", "neighbors", "pair_counts", "chains")] == [1, 0, 0, 0]
        same = measure(mesh, picks_of(mesh, [5, 5, 5]), n_simulations=2)
        assert [row["geodesic_nm"] for row in same["neighbors"]] == [0.0] * 6
        assert same["chains"] == []


def test_positions_that_are_not_finite_are_listed_and_not_counted(shapes: Any, measure: Any) -> None:
    mesh = shapes.sphere(300, 200.0, CENTRE)
    positions = mesh.vertices[[0, 40, 80, 120]].copy()
    positions[1, 2], positions[3] = np.nan, np.inf
    frames = orientations_from_normals(np.tile([0.0, 0.0, 1.0], (4, 1)))
    frames[2] = np.nan
    tables = measure(mesh, Picks(positions, frames, np.arange(4.0)), n_simulations=2)
    rows = tables["particles"]
    assert [row["particle_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["score"] for row in rows] == [0.0, 1.0, 2.0, 3.0]
    assert [row["component_id"] for row in rows] == [0, None, 0, None]
    assert (rows[1]["x_angstrom"], rows[1]["is_edge"], rows[2]["rot_degrees"]) == (None, None, None)
    assert tables["membranes"][0]["n_particles"] == 2
    assert {row["particle_id"] for row in tables["neighbors"]} <= {0, 2}
    assert {row["in_plane_angle_degrees"] for row in tables["neighbors"]} <= {None}


def test_errors_of_bad_meshes_name_numbers(shapes: Any) -> None:
    mesh = shapes.sphere(100, 10.0)
    mesh.vertices[3, 1] = np.inf
    with pytest.raises(ValueError, match="1 of the 100 vertices"):
        repaired(mesh)
    with pytest.raises(ValueError, match="1 of the mesh's 196 faces"):
        repaired(Mesh(mesh.vertices, np.where(np.arange(196)[:, None] == 5, -1, mesh.faces).astype(np.int32)))

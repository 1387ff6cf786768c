"""Particles anywhere around vesicles, sheets, tori: every column against its closed form, distances against trimesh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh
from standins.shapes import OPTIONS, Shapes

from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.statistics.context.particle_context import (
    STATES,
    MembranesAround,
    count_states,
    membranes_around,
    particle_context_rows,
)
from membrain_cloud.statistics.model.prepare import Membrane
from membrain_cloud.statistics.schema.context import PARTICLE_CONTEXT

GRID = Grid((100, 200, 200), 10.0)
MIDDLE = np.array([1000.0, 1000.0, 500.0])
APART = replace(OPTIONS, leaflets_apart=True)


def around(meshes: dict[int, Mesh], borders: dict[int, np.ndarray] | None = None) -> MembranesAround:
    border = {number: np.zeros(len(mesh.vertices), bool) for number, mesh in meshes.items()} | (borders or {})
    membranes = {number: Membrane(mesh, None, border[number], "") for number, mesh in meshes.items()}
    return membranes_around(membranes, grid=GRID, options=APART)


def rows_of(membranes: MembranesAround, points: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    axes = options.pop("axes", None)
    picks = Picks(np.asarray(points, np.float64), None if axes is None else orientations_from_normals(axes))
    return particle_context_rows(membranes, picks, **{"reach_nm": 60.0, "grid": GRID, **options})


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


@pytest.fixture(scope="module")
def vesicle() -> MembranesAround:
    """Mid-surface at 30 nm, 4 nm thick."""
    return around({7: Shapes().vesicle(320.0, 280.0, tuple(MIDDLE), counts=(9000, 7000))})


def directions(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("radius", "side", "depth_nm", "leaflet", "distance_nm"),
    [
        (420.0, "outside", 12.0, 0, 10.0),
        (310.0, "membrane", 1.0, 0, 1.0),
        (290.0, "membrane", -1.0, 1, 1.0),
        (180.0, "inside", -12.0, 1, 10.0),
    ],
)
def test_a_vesicle(
    vesicle: MembranesAround, radius: float, side: str, depth_nm: float, leaflet: int, distance_nm: float
) -> None:
    u = directions(300, 3)
    tilted = np.cos(np.radians(30)) * u + np.sin(np.radians(30)) * np.cross(u, [0, 0, 1.0]) / np.linalg.norm(
        np.cross(u, [0, 0, 1.0]), axis=1, keepdims=True
    )
    rows = rows_of(vesicle, MIDDLE + radius * u, axes=tilted)
    assert {row["status"] for row in rows} == {"measured"}
    assert {row["membrane_id"] for row in rows} == {7}
    assert {row["side"] for row in rows} == {side}
    assert {row["in_membrane"] for row in rows} == {side == "membrane"}
    assert {row["leaflet"] for row in rows} == {leaflet}
    assert {row["enclosing_membrane_id"] for row in rows} == {7 if side == "inside" else None}
    np.testing.assert_allclose(column(rows, "distance_nm"), distance_nm, atol=0.05)
    np.testing.assert_allclose(column(rows, "depth_nm"), depth_nm, atol=0.08)
    np.testing.assert_allclose(column(rows, "thickness_nm"), 4.0, atol=0.1)
    np.testing.assert_allclose(column(rows, "angle_to_normal_degrees"), 30 if leaflet == 0 else 150, atol=1.5)
    curved = 1 / 32.0 if leaflet == 0 else -1 / 28.0
    np.testing.assert_allclose(column(rows, "mean_curvature_per_nm"), curved, rtol=0.06)
    np.testing.assert_allclose(column(rows, "gaussian_curvature_per_nm2"), curved**2, rtol=0.15)
    np.testing.assert_allclose(np.abs(column(rows, "shape_index")), 1.0, atol=0.1)
    assert {row["distance_to_edge_nm"] for row in rows} == {None}  # a vesicle has no edge
    assert {row["touches_border"] for row in rows} == {False}
    assert {row["next_membrane_id"] for row in rows} == {None}


def test_a_free_sheet_has_a_depth_an_edge_and_no_side() -> None:
    """A slab of 40 x 40 nm, 4 nm thick, in the middle of the tomogram."""
    mesh, _ = Shapes().slab(400.0, 40.0, 10.0)
    sheet = around({1: Mesh(mesh.vertices + np.array([800.0, 800.0, 0.0]), mesh.faces)})
    x, y = np.meshgrid(np.linspace(860.0, 1130.0, 8), np.linspace(860.0, 1130.0, 7))
    place = np.column_stack([x.ravel(), y.ravel(), 0 * x.ravel()])
    to_edge = np.minimum(
        np.minimum(place[:, 0] - 795, 1195 - place[:, 0]), np.minimum(place[:, 1] - 795, 1195 - place[:, 1])
    )
    for height, depth in ((150.0, 15.0), (-90.0, 9.0), (13.0, 1.3)):
        rows = rows_of(sheet, place + np.array([0, 0, 500.0 + height]), axes=np.tile([0, 0, 1.0], (len(place), 1)))
        assert {row["side"] for row in rows} == {None}
        assert {row["in_membrane"] for row in rows} == {abs(height) < 20}
        np.testing.assert_allclose(column(rows, "distance_nm"), abs(abs(height) - 20.0) / 10, atol=1e-9)
        np.testing.assert_allclose(np.abs(column(rows, "depth_nm")), depth, atol=1e-6)
        np.testing.assert_allclose(column(rows, "thickness_nm"), 4.0, atol=1e-6)
        np.testing.assert_allclose(column(rows, "angle_to_normal_degrees"), 0 if height > 0 else 180, atol=1e-6)
        np.testing.assert_allclose(column(rows, "mean_curvature_per_nm"), 0.0, atol=1e-9)
        # the seam between the leaflets lies on the side walls, at most half the thickness away
        assert (np.abs(column(rows, "distance_to_edge_nm") - to_edge / 10) < 2.1).all()
    one, other = (column(rows_of(sheet, place + np.array([0, 0, 500.0 + h])), "depth_nm") for h in (60.0, -60.0))
    np.testing.assert_allclose(one, -other, atol=1e-6)  # one leaflet is above 0, the other below


def test_meshes_of_one_surface_are_seen_from_the_particles_side() -> None:
    flat = Shapes().plane(40, 20.0)
    plane = around({1: Mesh(flat.vertices + np.array([600.0, 600.0, 500.0]), flat.faces)})
    up = np.tile([0, 0, 1.0], (2, 1))
    above, below = rows_of(plane, np.array([[1000.0, 1000.0, 570.0], [1000.0, 1000.0, 430.0]]), axes=up)
    assert (above["distance_nm"], above["depth_nm"]) == (pytest.approx(7.0), pytest.approx(7.0))
    assert (below["distance_nm"], below["depth_nm"]) == (pytest.approx(7.0), pytest.approx(-7.0))
    assert (above["angle_to_normal_degrees"], below["angle_to_normal_degrees"]) == (0.0, 180.0)
    assert (above["normal_z"], below["normal_z"]) == (1.0, -1.0)
    for row in (above, below):
        assert (row["side"], row["in_membrane"], row["leaflet"], row["thickness_nm"]) == (None, None, None, None)


def test_a_torus_as_one_closed_surface() -> None:
    torus = Shapes().torus(160, 80, 250.0, 100.0)
    if trimesh.Trimesh(torus.vertices, torus.faces, process=False).volume < 0:
        torus = Shapes().inside_out(torus)
    membranes = around({3: Mesh(torus.vertices + MIDDLE, torus.faces)})
    turn, tube = np.random.default_rng(5).uniform(0, 2 * np.pi, (2, 400))
    for radius in (140.0, 60.0):
        ring = 250.0 + radius * np.cos(tube)
        points = np.column_stack([ring * np.cos(turn), ring * np.sin(turn), radius * np.sin(tube)])
        rows = rows_of(membranes, MIDDLE + points)
        np.testing.assert_allclose(column(rows, "distance_nm"), abs(radius - 100.0) / 10, atol=0.03)
        assert {row["side"] for row in rows} == {"outside" if radius > 100 else "inside"}
        np.testing.assert_allclose(column(rows, "depth_nm"), (radius - 100.0) / 10, atol=0.05)
        cos = np.cos(tube)
        mean = (250.0 + 200.0 * cos) / (2 * 100.0 * (250.0 + 100.0 * cos)) * 10
        np.testing.assert_allclose(column(rows, "mean_curvature_per_nm"), mean, atol=0.003)
    hole = rows_of(membranes, MIDDLE[None])[0]  # the middle of the ring lies outside
    assert (hole["side"], hole["distance_nm"]) == ("outside", pytest.approx(15.0, abs=0.02))


def test_distances_to_the_two_nearest_membranes_equal_trimesh() -> None:
    centres = np.array([[600.0, 700, 450], [1150, 900, 520], [900, 1300, 500], [1500, 1500, 300]])
    meshes = {
        k + 1: Shapes().vesicle(200.0 + 20 * k, 160.0 + 20 * k, tuple(c), (800, 700)) for k, c in enumerate(centres)
    }
    points = np.random.default_rng(8).uniform([300, 300, 50], [1700, 1700, 950], (500, 3))
    truth = np.stack(
        [
            trimesh.proximity.closest_point(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), points)[1]
            for mesh in meshes.values()
        ]
    )
    rows = rows_of(around(meshes), points)
    order = np.argsort(truth, axis=0)
    for row, distances, ranks in zip(rows, truth.T, order.T, strict=True):
        near = [(int(k) + 1, distances[k] / 10) for k in ranks[:2] if distances[k] <= 600.0]
        found = [
            (row[number], row[distance])
            for number, distance in (
                ("membrane_id", "distance_nm"),
                ("next_membrane_id", "distance_to_next_membrane_nm"),
            )
            if row[number] is not None
        ]
        assert found == [(number, pytest.approx(distance, abs=1e-7)) for number, distance in near]
    assert {row["status"] for row in rows} == {"measured", "no_membrane"}


def test_the_innermost_membrane_encloses() -> None:
    small = Shapes().vesicle(120.0, 80.0, tuple(MIDDLE + np.array([100, 0, 0])))
    large = Shapes().vesicle(350.0, 310.0, tuple(MIDDLE))
    nested = around({1: large, 2: small})
    points = MIDDLE + np.array([[100.0, 0, 0], [-200, 0, 0], [0, 0, 360], [100, 0, 100]])
    rows = rows_of(nested, points)
    assert [row["enclosing_membrane_id"] for row in rows] == [2, 1, None, 1]
    assert [row["membrane_id"] for row in rows] == [2, 1, 1, 2]
    assert [row["side"] for row in rows] == ["inside", "inside", "outside", "membrane"]


def test_particles_without_an_answer_are_counted_and_null(vesicle: MembranesAround) -> None:
    points = np.array([[1000.0, 1000, 900], [-6, 1000, 500], [np.nan] * 3, [10, 10, 10], [1995.1, 1000, 500]])
    rows = rows_of(vesicle, points, axes=np.tile([0, 0, 1.0], (5, 1)), reach_nm=20.0)
    assert [row["status"] for row in rows] == ["measured", "outside", "no_position", "no_membrane", "outside"]
    assert count_states(rows) == {"measured": 1, "no_membrane": 1, "outside": 2, "no_position": 1}
    assert list(count_states([])) == list(STATES)
    known = {"particle_id", "object_name", "status", "n_failed_membranes"}
    assert {name for name, value in rows[2].items() if value is not None} == known
    assert rows[3]["distance_to_border_nm"] == pytest.approx(1.5)
    assert [row["particle_id"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert set(row) == {"membrane_id", *(c.name for c in PARTICLE_CONTEXT)}
    empty = rows_of(around({}), points)
    assert [row["status"] for row in empty] == ["no_membrane", "outside", "no_position", "no_membrane", "outside"]
    assert rows_of(vesicle, np.zeros((0, 3))) == []


def test_a_membrane_cut_by_the_border_is_open_and_its_caps_are_no_membrane() -> None:
    mesh, border = Shapes().slab(400.0, 40.0, 10.0)
    cut = around({1: mesh}, {1: border})
    row = rows_of(cut, np.array([[-4.0, 200.0, 500.0]]))[0]
    assert row["touches_border"]
    assert row["side"] is None
    assert row["distance_nm"] == pytest.approx(2.0)  # to a leaflet, not to the cap 0.1 nm away


def test_a_membrane_that_cannot_be_measured_is_told_with_every_row(vesicle: MembranesAround) -> None:
    good = vesicle.membranes[7].membrane.shell.mesh
    bad = Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]], np.int32))
    both = around({1: bad, 7: good})
    assert list(both.failed) == [1]
    rows = rows_of(both, MIDDLE[None] + 250.0)
    assert [(row["membrane_id"], row["n_failed_membranes"]) for row in rows] == [(7, 1)]


def test_the_order_of_particles_changes_nothing(vesicle: MembranesAround) -> None:
    points = np.random.default_rng(2).uniform(500, 1500, (60, 3)) * [1, 1, 0.5]
    order = np.random.default_rng(3).permutation(60)
    straight, shuffled = rows_of(vesicle, points), rows_of(vesicle, points[order])
    for place, row in zip(order, shuffled, strict=True):
        assert straight[place] | {"particle_id": 0} == row | {"particle_id": 0}


def test_names_must_be_as_many_as_particles(vesicle: MembranesAround) -> None:
    with pytest.raises(ValueError, match="1 object names for 2 particles"):
        rows_of(vesicle, np.zeros((2, 3)), object_names=["psii"])

"""Statistics of membranes and particles against closed forms."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.rotations import in_plane_angle_degrees
from membrain_cloud.statistics.measure import (
    MEMBRANE_KEYS,
    STATISTICS,
    TABLES,
    TOMOGRAM_KEYS,
    Density,
    Options,
    measure_membrane,
    relion_angles,
    ripley_from_pair_counts,
    tomogram_row,
)
from membrain_cloud.statistics.spatial.chains import ChainRules
from membrain_cloud.statistics.spatial.neighbors import count_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

GRID = Grid((100, 200, 200), 10.0)
OPTIONS = Options(
    cutoff_nm=40.0,
    bin_width_nm=2.0,
    n_neighbors=3,
    edge_width_nm=5.0,
    leaflets_apart=False,
    n_simulations=0,
    symmetry=1,
    in_plane="turned",
    against=("distance_to_edge_nm",),
    chains=None,
    gap_nm=100.0,
    contact_nm=30.0,
)


def sphere(count: int, radius: float) -> Mesh:
    """Vertices on a Fibonacci spiral about the middle of GRID, wound outwards."""
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - height**2)
    points = np.stack([np.cos(turn) * ring, np.sin(turn) * ring, height], axis=1)
    faces = ConvexHull(points).simplices.astype(np.int32)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return Mesh(points * radius + [1000.0, 1000.0, 500.0], faces)


def vesicle(outer: float, inner: float) -> Mesh:
    outside, inside = sphere(2000, outer), sphere(1500, inner)
    return Mesh(
        np.concatenate([outside.vertices, inside.vertices]),
        np.concatenate([outside.faces, inside.faces[:, ::-1] + 2000]).astype(np.int32),
    )


def slab(size: float, thickness: float, step: float) -> tuple[Mesh, np.ndarray]:
    """A box around z = 500 Å that begins at x = y = -5 Å, where GRID does, and the flags of its side walls.

    The walls have no vertices of their own: here every vertex of the rims is a border vertex.
    """
    n = round(size / step) + 1
    i, j = (index.ravel() for index in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    u, v = (index.ravel() for index in np.meshgrid(np.arange(n - 1), np.arange(n - 1), indexing="ij"))
    a, b, c, d = u * n + v, (u + 1) * n + v, (u + 1) * n + v + 1, u * n + v + 1
    top = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    rim = np.concatenate(
        [
            np.arange(n - 1) * n,
            (n - 1) * n + np.arange(n - 1),
            np.arange(n - 1, 0, -1) * n + n - 1,
            np.arange(n - 1, 0, -1),
        ]
    )
    ahead = np.roll(rim, -1)
    walls = np.concatenate(
        [np.stack([ahead, rim, rim + n * n], axis=1), np.stack([ahead, rim + n * n, ahead + n * n], axis=1)]
    )
    flat = np.stack([i * step - 5.0, j * step - 5.0, 0.0 * i], axis=1)
    vertices = np.concatenate([flat + np.array([0, 0, 500 + z]) for z in (thickness / 2, -thickness / 2)])
    border = np.zeros(len(vertices), bool)
    border[rim], border[rim + n * n] = True, True
    return Mesh(vertices, np.concatenate([top, top[:, ::-1] + n * n, walls]).astype(np.int32)), border


def random_picks(mesh: Mesh, count: int, seed: int, off: float = 0.0) -> Picks:
    """Evenly by area, `off` Å along the normals."""
    rng = np.random.default_rng(seed)
    areas = mesh.face_areas_angstrom2()
    faces = rng.choice(len(areas), count, p=areas / areas.sum())
    corners = mesh.vertices[mesh.faces[faces]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = np.einsum("nk,nkd->nd", rng.dirichlet([1.0, 1.0, 1.0], count), corners)
    turns = rng.uniform(0, 2 * np.pi, count)
    return Picks(places + off * normals, orientations_from_normals(normals, turns), rng.uniform(size=count))


def measure(mesh: Mesh, picks: Picks | None, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Any parameter of measure_membrane, and any of its options."""
    parameters = {"grid": GRID, "object_names": "protein", "border_vertices": np.zeros(len(mesh.vertices), bool)}
    chosen = {field.name: changes.pop(field.name) for field in fields(Options) if field.name in changes}
    return measure_membrane(mesh, picks, **{**parameters, **changes}, options=replace(OPTIONS, **chosen))


# ------------------------------------------------------------------ tables


def test_rows_hold_the_tables_columns_in_their_kinds() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    z = np.broadcast_to((np.arange(100.0) * 10.0 - 500.0)[:, None, None], GRID.shape)
    dark = sum(np.exp(-0.5 * ((z - side) / 8.0) ** 2) for side in (-20.0, 20.0))
    tables = measure(
        mesh,
        random_picks(mesh, 60, 0),
        border_vertices=border,
        n_simulations=3,
        leaflets_apart=True,
        chains=ChainRules(40.0, 180.0, 180.0, 3, 3),
        density=Density(-np.asarray(dark), GRID.box, GRID),
    )
    assert list(tables) == list(STATISTICS)
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": float, "text": str, "bool": bool}
    for table, rows in tables.items():
        columns = TABLES[table][len(MEMBRANE_KEYS) :]
        assert rows
        for row in rows:
            assert list(row) == [column.name for column in columns]
            for column in columns:
                value = row[column.name]
                assert value is None or type(value) is kinds[column.kind], column.name
                assert not isinstance(value, float) or math.isfinite(value), column.name


def test_columns_are_described_and_keys_come_first() -> None:
    for table, columns in TABLES.items():
        keys = TOMOGRAM_KEYS if table == "tomograms" else MEMBRANE_KEYS
        assert columns[: len(keys)] == keys
        names = [column.name for column in columns]
        assert len(set(names)) == len(names)
        assert all(column.description for column in columns)
        for suffix, unit in {"_nm": "nm", "_nm2": "nm²", "_nm3": "nm³", "_angstrom": "Å", "_degrees": "°"}.items():
            for column in columns:
                if column.name.endswith(suffix) and "per_" not in column.name:
                    assert column.unit == unit, column.name


def test_tomogram_row() -> None:
    row = tomogram_row(
        GRID,
        n_membranes=3,
        n_failed_membranes=0,
        n_particles=None,
        mesh_uri="membrane:membrain/ab",
        picks_uri=None,
        density_uri=None,
        lamella_uri=None,
        package_version="1.0",
        data_version="1",
    )
    assert list(row) == [column.name for column in TABLES["tomograms"][len(TOMOGRAM_KEYS) :]]
    assert row["volume_um3"] == pytest.approx(0.1 * 0.2 * 0.2)
    assert (row["shape_z"], row["shape_x"], row["n_particles"]) == (100, 200, None)


# ------------------------------------------------------------------ the membrane


def test_a_vesicle() -> None:
    outer, inner = 300.0, 260.0
    (row,) = measure(vesicle(outer, inner), None)["membranes"]
    area = 2 * np.pi * (30.0**2 + 26.0**2)
    volume = 4 / 3 * np.pi * (30.0**3 - 26.0**3)
    assert row["one_sided_area_nm2"] == pytest.approx(area, rel=5e-3)
    assert row["shell_area_nm2"] == pytest.approx(2 * area, rel=5e-3)
    assert row["volume_nm3"] == pytest.approx(volume, rel=2e-2)
    assert row["lumen_volume_nm3"] == pytest.approx(4 / 3 * np.pi * 26.0**3, rel=2e-2)
    assert row["thickness_nm"] == pytest.approx(4.0, rel=2e-2)
    assert (row["is_closed"], row["touches_border"], row["euler_characteristic"], row["n_components"]) == (
        True,
        False,
        4,
        2,
    )
    assert row["mean_curvature_p95_per_nm"] == pytest.approx(1 / 30.0, rel=0.05)
    assert row["mean_curvature_p05_per_nm"] == pytest.approx(-1 / 26.0, rel=0.05)
    assert 1 / 30.5 < row["abs_mean_curvature_p50_per_nm"] < 1 / 25.5
    assert row["box_min_z_angstrom"] == pytest.approx(200.0, abs=1.0)
    assert row["box_max_x_angstrom"] == pytest.approx(1300.0, abs=1.0)
    assert row["n_particles"] is None
    assert row["particles_per_um2"] is None


def test_a_membrane_cut_by_the_border_has_neither_caps_nor_a_lumen() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    (row,) = measure(mesh, Picks(np.zeros((0, 3))), border_vertices=border)["membranes"]
    # the triangles in the corners have border vertices only
    assert row["one_sided_area_nm2"] == pytest.approx(60.0**2, rel=2e-3)
    assert row["shell_area_nm2"] == pytest.approx(2 * 60.0**2 + 4 * 60.0 * 4.0)
    assert row["thickness_nm"] == pytest.approx(4.0, rel=2e-3)
    assert (row["is_closed"], row["touches_border"], row["euler_characteristic"], row["n_components"]) == (
        False,
        True,
        2,
        2,
    )
    assert row["lumen_volume_nm3"] is None
    assert row["mean_curvature_p50_per_nm"] == pytest.approx(0.0, abs=1e-9)
    assert (row["n_particles"], row["particles_per_um2"]) == (0, 0.0)


def test_a_sheet_with_a_rim_is_not_closed_nor_is_a_slab_with_a_hole_inside() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    (row,) = measure(mesh, None)["membranes"]
    assert (row["is_closed"], row["touches_border"], row["n_components"]) == (False, False, 1)
    bubble = sphere(40, 10.0)
    with_bubble = Mesh(
        np.concatenate([mesh.vertices, bubble.vertices]),
        np.concatenate([mesh.faces, bubble.faces[:, ::-1] + len(mesh.vertices)]).astype(np.int32),
    )
    (row,) = measure(with_bubble, None)["membranes"]
    assert (row["is_closed"], row["lumen_volume_nm3"]) == (False, None)


def test_unknown_is_none_where_the_shell_is_open_or_all_cap() -> None:
    mesh = sphere(400, 200.0)
    open_shell = Mesh(mesh.vertices, mesh.faces[1:])
    (row,) = measure(open_shell, random_picks(mesh, 5, 0))["membranes"]
    assert (row["volume_nm3"], row["thickness_nm"], row["lumen_volume_nm3"]) == (None, None, None)
    assert row["particles_per_um2"] > 0
    tables = measure(mesh, random_picks(mesh, 5, 0), border_vertices=np.ones(400, bool))
    (row,) = tables["membranes"]
    assert (row["one_sided_area_nm2"], row["thickness_nm"], row["particles_per_um2"]) == (None, None, None)
    assert row["touches_border"] is True
    assert len(tables["particles"]) == 5


def test_density_counts_particles_of_one_side_of_the_area() -> None:
    mesh = vesicle(300.0, 260.0)
    (row,) = measure(mesh, random_picks(mesh, 80, 1))["membranes"]
    assert row["n_particles"] == 80
    assert row["particles_per_um2"] == pytest.approx(80 / row["one_sided_area_nm2"] * 1e6)


def test_arguments_that_do_not_agree() -> None:
    mesh = sphere(100, 200.0)
    with pytest.raises(ValueError, match="border flags"):
        measure(mesh, None, border_vertices=np.zeros(3, bool))
    with pytest.raises(ValueError, match="object names"):
        measure(mesh, random_picks(mesh, 3, 0), object_names=["a", "b"])


# ------------------------------------------------------------------ particles


def test_particles_off_the_surface_are_placed_on_it() -> None:
    mesh = sphere(4000, 300.0)
    picks = random_picks(mesh, 40, 2, off=40.0)
    rows = measure(mesh, picks)["particles"]
    assert [row["particle_id"] for row in rows] == list(range(40))
    for row, position, score in zip(rows, picks.positions, picks.scores, strict=True):
        outwards = (position - [1000.0, 1000.0, 500.0]) / np.linalg.norm(position - [1000.0, 1000.0, 500.0])
        assert [row[f"{axis}_angstrom"] for axis in "xyz"] == position.tolist()
        assert row["score"] == score
        assert row["distance_to_surface_nm"] == pytest.approx(4.0, abs=0.05)
        assert [row[f"normal_{axis}"] for axis in "xyz"] == pytest.approx(outwards.tolist(), abs=0.02)
        assert row["mean_curvature_per_nm"] == pytest.approx(1 / 30.0, rel=0.05)
        assert row["gaussian_curvature_per_nm2"] == pytest.approx(1 / 900.0, rel=0.1)
        assert (row["distance_to_boundary_nm"], row["is_edge"]) == (None, False)
        assert row["object_name"] == "protein"


def test_edges_are_found_along_the_surface() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    positions = np.array([[23.0, 300.0, 525.0], [295.0, 295.0, 475.0], [95.0, 300.0, 520.0]])
    rows = measure(mesh, Picks(positions), border_vertices=border, cutoff_nm=20.0)["particles"]
    assert [row["is_edge"] for row in rows] == [True, False, False]
    assert rows[0]["distance_to_boundary_nm"] == pytest.approx(2.8, abs=0.2)
    assert rows[1]["distance_to_boundary_nm"] is None
    assert rows[2]["distance_to_boundary_nm"] == pytest.approx(10.0, abs=0.2)
    assert rows[0]["distance_to_border_nm"] == pytest.approx(2.8)
    assert rows[1]["distance_to_border_nm"] == pytest.approx(30.0)
    assert [row["rot_degrees"] for row in rows] == [None] * 3


def test_relion_angles_rebuild_the_rotation() -> None:
    rotations = Rotation.random(200, random_state=3).as_matrix()
    upright = Rotation.from_euler("z", [[0.0], [30.0], [-170.0]], degrees=True).as_matrix()
    overhead = upright @ Rotation.from_euler("x", 180.0, degrees=True).as_matrix()
    every = np.concatenate([rotations, upright, overhead, np.eye(3)[None]])
    angles = relion_angles(every)
    assert np.isfinite(angles).all()
    rebuilt = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(rebuilt, every, atol=1e-9)
    expected = Rotation.from_matrix(rotations).inv().as_euler("ZYZ", degrees=True)
    np.testing.assert_allclose(angles[:200], expected, atol=1e-6)


# ------------------------------------------------------------------ neighbours


def test_nearest_neighbours_at_random_on_a_sphere() -> None:
    """Mean πR·C(2N-2, N-1)/4^(N-1): 8.896 nm for 100 particles at R = 50 nm."""
    count, radius = 100, 50.0
    expected = np.pi * radius * math.comb(2 * count - 2, count - 1) / 4 ** (count - 1)
    mesh = sphere(1000, radius * 10)
    surface = Surface(mesh)
    found = []
    for seed in range(25):
        at = surface.closest_points(random_picks(mesh, count, seed).positions)
        pairs = count_pairs(
            surface,
            at,
            np.zeros(count, np.int64),
            cutoff_angstrom=300.0,
            bin_width_angstrom=300.0,
            boundary_cutoff_angstrom=0.0,
            n_neighbors=1,
        )
        found += (pairs.neighbors.distances / 10).tolist()
    assert len(found) == 25 * count
    assert np.mean(found) == pytest.approx(expected, rel=0.04)


def test_neighbours_of_a_hexagonal_lattice_come_in_shells() -> None:
    spacing = 80.0
    mesh, border = slab(1200.0, 40.0, 20.0)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(-20, 21), np.arange(-20, 21), indexing="ij"))
    lattice = np.stack([600 + spacing * (i + 0.5 * j), 600 + spacing * np.sqrt(0.75) * j], axis=1)
    lattice = lattice[((lattice > 30) & (lattice < 1160)).all(axis=1)]
    picks = Picks(np.column_stack([lattice, np.full(len(lattice), 520.0)]))
    tables = measure(mesh, picks, border_vertices=border, n_neighbors=18, cutoff_nm=20.0, bin_width_nm=1.0)
    middle = np.flatnonzero((np.abs(lattice - 600) < 250).all(axis=1))
    assert len(middle) > 20
    shells = np.repeat([spacing, spacing * np.sqrt(3), spacing * 2], 6) / 10
    for particle in middle:
        found = [row["geodesic_nm"] for row in tables["neighbors"] if row["particle_id"] == particle]
        np.testing.assert_allclose(found, shells, rtol=5e-3)
    euclidean = [row["euclidean_nm"] for row in tables["neighbors"] if row["rank"] == 1]
    np.testing.assert_allclose(euclidean, spacing / 10)
    (row,) = tables["membranes"]
    # λ = 2/(√3a²) on one side of the membrane; the lattice's ends are ragged.
    inside = (1160 - 30) ** 2 / row["one_sided_area_nm2"] / 100
    assert row["particles_per_um2"] == pytest.approx(inside * 2 / (np.sqrt(3) * 0.008**2), rel=0.06)


def test_leaflets_that_the_border_parts_have_no_common_neighbours() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 300.0, 520.0], [300.0, 300.0, 480.0], [340.0, 300.0, 480.0]]))
    tables = measure(mesh, both, border_vertices=border)
    pairs = [(row["particle_id"], row["target_id"]) for row in tables["neighbors"]]
    assert pairs == [(1, 2), (2, 1)]
    assert tables["neighbors"][0]["geodesic_nm"] == pytest.approx(4.0)
    assert len({row["component_id"] for row in tables["particles"]}) == 2
    # A lone particle has nobody to be counted about it.
    assert {row["n_start"] for row in tables["pair_counts"]} == {2}


def test_leaflets_joined_at_a_rim_are_one_surface() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 20.0, 520.0], [300.0, 30.0, 480.0]]))
    rows = measure(mesh, both)["neighbors"]
    assert rows[0]["geodesic_nm"] == pytest.approx(2.5 + 4.0 + 3.5, rel=1e-2)
    assert rows[0]["euclidean_nm"] == pytest.approx(np.hypot(4.0, 1.0))


def test_fewer_neighbours_than_asked_for_and_two_particles_in_one_place() -> None:
    mesh = sphere(500, 200.0)
    place = mesh.vertices[[7, 7, 100]]
    rows = measure(mesh, Picks(place), n_neighbors=5, cutoff_nm=100.0)["neighbors"]
    assert [(row["particle_id"], row["rank"]) for row in rows] == [(i, rank) for i in range(3) for rank in (1, 2)]
    assert rows[0]["geodesic_nm"] == 0.0
    assert (rows[0]["target_id"], rows[2]["target_id"]) == (1, 0)
    assert rows[0]["in_plane_angle_degrees"] is None


def test_ranks_are_counted_for_each_kind() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    x = [300.0, 320.0, 330.0, 350.0]
    picks = Picks(np.array([[value, 300.0, 520.0] for value in x]))
    rows = measure(mesh, picks, border_vertices=border, object_names=["a", "b", "b", "a"], n_neighbors=1)["neighbors"]
    found = {(row["particle_id"], row["target_object_name"]): row["target_id"] for row in rows}
    assert found == {
        (0, "a"): 3,
        (0, "b"): 1,
        (1, "a"): 0,
        (1, "b"): 2,
        (2, "a"): 3,
        (2, "b"): 1,
        (3, "a"): 0,
        (3, "b"): 2,
    }


def test_in_plane_angle() -> None:
    def turned(degrees: float, tilt: float = 0.0) -> np.ndarray:
        return Rotation.from_euler("xz", [0.0, degrees], degrees=True).as_matrix() if not tilt else (
            Rotation.from_euler("x", tilt, degrees=True) * Rotation.from_euler("z", degrees, degrees=True)
        ).as_matrix()  # fmt: skip

    assert in_plane_angle_degrees(turned(0.0), turned(0.0)) == 0.0
    assert in_plane_angle_degrees(turned(10.0), turned(70.0)) == pytest.approx(60.0)
    assert in_plane_angle_degrees(turned(10.0), turned(200.0)) == pytest.approx(170.0)
    # A tilt of the plane is no turn in it.
    assert in_plane_angle_degrees(turned(10.0), turned(70.0, tilt=50.0)) == pytest.approx(60.0)
    assert in_plane_angle_degrees(turned(0.0), turned(0.0, tilt=180.0)) is None
    assert in_plane_angle_degrees(turned(0.0), np.full((3, 3), np.nan)) is None


# ------------------------------------------------------------------ pair counts


def test_ripley_at_random_on_a_sphere() -> None:
    mesh = sphere(1000, 500.0)
    rows: list[dict[str, Any]] = []
    for seed in range(12):
        rows += measure(mesh, random_picks(mesh, 120, 100 + seed), bin_width_nm=5.0)["pair_counts"]
    curves = ripley_from_pair_counts(rows)
    cap = 2 * np.pi * 50.0**2 * (1 - np.cos(curves.r_nm / 50.0))
    np.testing.assert_allclose(curves.random_k_nm2, cap, rtol=5e-3)
    np.testing.assert_allclose(curves.k_nm2[1:], cap[1:], rtol=0.05)
    np.testing.assert_allclose(curves.pair_correlation[1:], 1.0, atol=0.06)
    np.testing.assert_allclose(curves.l_minus_r_nm, 0.0, atol=0.25)


def test_ripley_at_random_on_a_plane_with_ends() -> None:
    mesh, border = slab(800.0, 40.0, 40.0)
    rows: list[dict[str, Any]] = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        picks = Picks(np.column_stack([rng.uniform(-5, 795, (120, 2)), np.full(120, 520.0)]))
        rows += measure(mesh, picks, border_vertices=border, bin_width_nm=5.0)["pair_counts"]
    curves = ripley_from_pair_counts(rows)
    np.testing.assert_allclose(curves.pair_correlation[1:], 1.0, atol=0.07)
    np.testing.assert_allclose(curves.l_minus_r_nm, 0.0, atol=0.3)
    # the ends cost area: more, the farther one looks
    lost = 1 - curves.random_k_nm2 / (np.pi * curves.r_nm**2)
    assert (np.diff(lost) > 0).all()
    assert lost[0] < 0.1


def test_pair_counts_are_ordered_pairs_and_areas_add_up() -> None:
    mesh = sphere(1500, 300.0)
    tables = measure(mesh, random_picks(mesh, 40, 5), cutoff_nm=95.0, bin_width_nm=1.0)
    rows = tables["pair_counts"]
    assert len(rows) == 95
    assert sum(row["n_pairs"] for row in rows) == 40 * 39
    assert sum(row["area_sum_nm2"] for row in rows) == pytest.approx(40 * rows[0]["area_nm2"], rel=1e-6)
    assert sum(row["expected_pairs"] for row in rows) == pytest.approx(40 * 39, rel=1e-6)
    assert (rows[3]["r_min_nm"], rows[3]["r_max_nm"], rows[3]["bin"]) == (3.0, 4.0, 3)


def test_pairs_of_two_kinds() -> None:
    mesh = sphere(800, 200.0)
    picks = random_picks(mesh, 30, 6)
    names = ["a"] * 10 + ["b"] * 20
    rows = measure(mesh, picks, object_names=names, cutoff_nm=70.0)["pair_counts"]
    sums = {
        (one, other): sum(r["n_pairs"] for r in rows if (r["object_name"], r["target_object_name"]) == (one, other))
        for one in "ab"
        for other in "ab"
    }
    assert sums == {("a", "a"): 90, ("a", "b"): 200, ("b", "a"): 200, ("b", "b"): 380}
    mixed = [row for row in rows if row["object_name"] == "a" and row["target_object_name"] == "b"]
    assert mixed[0]["expected_pairs"] == pytest.approx(mixed[0]["area_sum_nm2"] * 20 / mixed[0]["area_nm2"])


def test_curves_pool_by_sums_and_refuse_mixed_bins() -> None:
    mesh = sphere(800, 300.0)
    parts = [measure(mesh, random_picks(mesh, n, n))["pair_counts"] for n in (20, 60)]
    pooled = ripley_from_pair_counts(parts[0] + parts[1])
    by_hand = [
        (a["n_pairs"] + b["n_pairs"]) / (a["expected_pairs"] + b["expected_pairs"]) for a, b in zip(*parts, strict=True)
    ]
    np.testing.assert_allclose(pooled.pair_correlation, by_hand)
    other = measure(mesh, random_picks(mesh, 20, 1), bin_width_nm=1.0)["pair_counts"]
    with pytest.raises(ValueError, match="different bins"):
        ripley_from_pair_counts(parts[0] + other)
    assert len(ripley_from_pair_counts([]).r_nm) == 0


# ------------------------------------------------------------------ leaflets, edges, histograms


def test_leaflets_apart_have_no_common_neighbours_around_a_rim() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 20.0, 520.0], [300.0, 30.0, 480.0], [300.0, 60.0, 481.0]]))
    tables = measure(mesh, both, leaflets_apart=True)
    assert [(row["particle_id"], row["target_id"]) for row in tables["neighbors"]] == [(1, 2), (2, 1)]
    sides = [row["leaflet"] for row in tables["particles"]]
    assert sides[1] == sides[2] == 1 - sides[0]
    (row,) = tables["membranes"]
    # each leaflet has half of the walls
    assert row["outer_leaflet_area_nm2"] == pytest.approx(60**2 + 4 * 60 * 2, rel=0.01)
    assert row["inner_leaflet_area_nm2"] == pytest.approx(60**2 + 4 * 60 * 2, rel=0.01)
    # the rim is an edge: 2.5 nm beyond y = 2 nm the surface turns
    assert [row["is_edge"] for row in tables["particles"]] == [True, True, False]
    assert row["n_particles_without_edges"] == 1
    assert row["area_without_edges_nm2"] == pytest.approx(50**2, rel=0.1)  # faces of 2 nm count whole


def test_an_oriented_particle_in_the_middle_is_placed_on_the_leaflet_it_looks_out_of() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    positions = np.array([[300.0, 300.0, 502.0], [300.0, 340.0, 502.0], [300.0, 380.0, 498.0]])
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    picks = Picks(positions, orientations_from_normals(axes))
    rows = measure(mesh, picks, border_vertices=border, leaflets_apart=True)["particles"]
    assert [row["normal_z"] for row in rows] == pytest.approx([1.0, -1.0, 1.0])
    assert [row["distance_to_surface_nm"] for row in rows] == pytest.approx([1.8, 2.2, 2.2])
    assert rows[0]["leaflet"] == rows[2]["leaflet"] == 1 - rows[1]["leaflet"]


def test_a_closed_surface_has_no_edges() -> None:
    mesh = vesicle(300.0, 260.0)
    tables = measure(mesh, random_picks(mesh, 50, 3), leaflets_apart=True)
    (row,) = tables["membranes"]
    assert row["area_without_edges_nm2"] == pytest.approx(row["one_sided_area_nm2"], rel=1e-12)
    assert row["n_particles_without_edges"] == 50
    assert row["outer_leaflet_area_nm2"] == pytest.approx(4 * np.pi * 30**2, rel=0.01)
    assert row["inner_leaflet_area_nm2"] == pytest.approx(4 * np.pi * 26**2, rel=0.01)


def test_histograms_hold_all_area_and_all_particles() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    tables = measure(mesh, random_picks(mesh, 40, 4), border_vertices=border, leaflets_apart=True)
    (membrane,) = tables["membranes"]
    for name in {row["property"] for row in tables["membrane_histograms"]} - {"shape_index"}:
        area = sum(row["area_nm2"] for row in tables["membrane_histograms"] if row["property"] == name)
        assert area == pytest.approx(2 * membrane["one_sided_area_nm2"])
        count = sum(row["n_particles"] for row in tables["particle_histograms"] if row["property"] == name)
        assert count == (0 if name == "distance_to_protein_nm" else 40)  # no class against its own distance
    rings = [row for row in tables["membrane_histograms"] if row["property"] == "distance_to_edge_nm"]
    first = sum(row["area_nm2"] for row in rings if row["bin_max"] <= 10.0)
    assert first == pytest.approx(2 * (60**2 - 40**2), rel=0.03)


def test_curvatures_of_a_sphere_are_those_of_a_dome() -> None:
    mesh = sphere(3000, 250.0)
    row = measure(mesh, random_picks(mesh, 5, 1))["particles"][0]
    assert row["shape_index"] == pytest.approx(1.0, abs=0.1)
    for name in ("largest_curvature_per_nm", "least_curvature_per_nm", "curvedness_per_nm"):
        assert row[name] == pytest.approx(1 / 25.0, rel=0.06)


# ------------------------------------------------------------------ the same for whoever runs it


@pytest.mark.parametrize("shuffle", [lambda n: np.arange(n)[::-1], lambda n: np.random.default_rng(9).permutation(n)])
def test_the_order_of_particles_does_not_matter(shuffle: Callable[[int], np.ndarray]) -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    picks = random_picks(mesh, 60, 7, off=10.0)
    names = np.array(["a", "b", "b"] * 20)
    order = shuffle(60)
    assert picks.orientations is not None
    shuffled = Picks(picks.positions[order], picks.orientations[order], picks.scores[order])
    one = measure(mesh, picks, border_vertices=border, object_names=names.tolist())
    other = measure(mesh, shuffled, border_vertices=border, object_names=names[order].tolist())
    assert one["membranes"] == other["membranes"]
    assert one["pair_counts"] == other["pair_counts"]
    back = {int(old): new for new, old in enumerate(order)}
    for table in ("particles", "neighbors"):
        renamed = [
            {k: back[v] if k in ("particle_id", "target_id") else v for k, v in row.items()} for row in one[table]
        ]
        key = ["particle_id", "target_object_name", "rank"]
        assert sorted(renamed, key=lambda row: [row.get(k, 0) for k in key]) == other[table]


def test_no_particles_give_no_rows_and_no_warnings() -> None:
    mesh = sphere(300, 200.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picks in (None, Picks(np.zeros((0, 3)))):
            tables = measure(mesh, picks, n_simulations=2)
            filled = [name for name in STATISTICS if tables[name]]
            assert filled == ["membranes", "membrane_histograms"]
        lone = measure(mesh, random_picks(mesh, 1, 0), n_simulations=2)
        assert [len(lone[name]) for name in ("membranes", "particles", "neighbors", "pair_counts")] == [1, 1, 0, 0]
        assert lone["random_pair_counts"] == []


def test_many_particles_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = sphere(500, 300.0)
    picks = random_picks(mesh, 50, 8)
    whole = measure(mesh, picks)
    monkeypatch.setattr("membrain_cloud.statistics.spatial.neighbors.SOURCES_AT_ONCE", 7)
    assert measure(mesh, picks) == whole

"""Statistics do not depend on position, rotation, scale or numbering (property tests with hypothesis)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals

CENTRE = np.array([1000.0, 1000.0, 1000.0])
FEW = settings(
    max_examples=8, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
Measure = Callable[..., dict[str, list[dict[str, Any]]]]
# Merging windows changes a distance by up to this share, in a mesh as coarse as these (see mesh.geodesics).
ROUND = 2e-3

seeds = st.integers(0, 2**31 - 1)


def bumpy(shapes: Any, seed: int) -> tuple[Mesh, Picks]:
    """Return a rough sphere with 24 oriented particles."""
    rng = np.random.default_rng(seed)
    mesh = shapes.sphere(260, 150.0)
    mesh = Mesh(mesh.vertices * rng.uniform(0.97, 1.03, (260, 1)) + CENTRE, mesh.faces)
    faces = rng.choice(len(mesh.faces), 24, replace=False)
    corners = mesh.vertices[mesh.faces[faces]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = np.einsum("nk,nkd->nd", rng.dirichlet([2.0, 2.0, 2.0], 24), corners)
    return mesh, Picks(places + 3.0 * normals, orientations_from_normals(normals, rng.uniform(0, 6.28, 24)))


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]], rel: float, but: tuple[str, ...] = ()) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for name in left:
            if name.startswith(
                ("x_", "y_", "z_", "box_", "rot_", "tilt_", "psi_", "normal_", "verticality", "random_seed", *but)
            ):
                continue
            expected = right[name]
            if isinstance(expected, float):
                expected = pytest.approx(expected, rel=rel, abs=1e-5)
            assert left[name] == expected, name


def unlike_rank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns that do not change when two nearly equal neighbours swap ranks."""
    return [{name: row[name] for name in ("particle_id", "object_name", "rank", "geodesic_nm")} for row in rows]


@FEW
@given(seed=seeds)
def test_rigid_motions_change_nothing(seed: int, shapes: Any, measure: Measure) -> None:
    mesh, picks = bumpy(shapes, seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    shift = np.random.default_rng(seed).uniform(-200, 200, 3)
    assert picks.orientations is not None
    moved = Mesh((mesh.vertices - CENTRE) @ turn.T + CENTRE + shift, mesh.faces)
    carried = Picks((picks.positions - CENTRE) @ turn.T + CENTRE + shift, turn @ picks.orientations)
    one, other = measure(mesh, picks), measure(moved, carried)
    assert_same(one["membranes"], other["membranes"], 1e-6)
    assert_same(one["particles"], other["particles"], ROUND, but=("distance_to_border",))
    assert_same(unlike_rank(one["neighbors"]), unlike_rank(other["neighbors"]), ROUND)
    angles = [
        sorted(r["in_plane_angle_degrees"] for r in tables["neighbors"] if r["rank"] == 1) for tables in (one, other)
    ]
    assert angles[0] == pytest.approx(angles[1], abs=0.05)
    assert sum(r["n_pairs"] for r in one["pair_counts"]) == pytest.approx(
        sum(r["n_pairs"] for r in other["pair_counts"]), abs=2
    )


@FEW
@given(seed=seeds, power=st.sampled_from([-1, 1]))
def test_twice_the_size_is_twice_every_length(seed: int, power: int, shapes: Any, measure: Measure) -> None:
    mesh, picks = bumpy(shapes, seed)
    scale = 2.0**power
    large = Mesh((mesh.vertices - CENTRE) * scale + CENTRE, mesh.faces)
    spread = Picks((picks.positions - CENTRE) * scale + CENTRE, picks.orientations)
    one = measure(mesh, picks)
    other = measure(large, spread, cutoff_nm=20.0 * scale, bin_width_nm=scale, edge_width_nm=5.0 * scale)
    (small,), (big,) = one["membranes"], other["membranes"]
    assert big["one_sided_area_nm2"] == pytest.approx(small["one_sided_area_nm2"] * scale**2)
    assert big["volume_nm3"] == pytest.approx(small["volume_nm3"] * scale**3)
    assert big["mean_curvature_p50_per_nm"] == pytest.approx(small["mean_curvature_p50_per_nm"] / scale)
    assert big["shape_index_p50"] == pytest.approx(small["shape_index_p50"])
    assert big["euler_characteristic"] == small["euler_characteristic"]
    for left, right in zip(one["neighbors"], other["neighbors"], strict=True):
        assert right["geodesic_nm"] == pytest.approx(left["geodesic_nm"] * scale, rel=1e-9)
        assert right["target_id"] == left["target_id"]
    assert [r["n_pairs"] for r in one["pair_counts"]] == [r["n_pairs"] for r in other["pair_counts"]]
    areas = [np.array([r["area_sum_nm2"] for r in tables["pair_counts"]]) for tables in (one, other)]
    np.testing.assert_allclose(areas[1], areas[0] * scale**2, rtol=1e-9)


@FEW
@given(seed=seeds)
def test_numbering_of_vertices_and_faces_does_not_matter(seed: int, shapes: Any, measure: Measure) -> None:
    mesh, picks = bumpy(shapes, seed)
    rng = np.random.default_rng(seed)
    vertices, faces = rng.permutation(len(mesh.vertices)), rng.permutation(len(mesh.faces))
    turned = np.take_along_axis(mesh.faces[faces], (rng.integers(0, 3, (len(faces), 1)) + np.arange(3)) % 3, axis=1)
    renumbered = Mesh(mesh.vertices[vertices], np.argsort(vertices)[turned].astype(np.int32))
    one, other = measure(mesh, picks), measure(renumbered, picks)
    assert_same(one["membranes"], other["membranes"], 1e-9)
    assert_same(one["particles"], other["particles"], ROUND)
    assert_same(unlike_rank(one["neighbors"]), unlike_rank(other["neighbors"]), ROUND)


@FEW
@given(seed=seeds, shuffle=st.permutations(range(24)))
def test_the_order_and_the_names_of_particles_do_not_matter(
    seed: int, shuffle: list[int], shapes: Any, measure: Measure
) -> None:
    mesh, picks = bumpy(shapes, seed)
    assert picks.orientations is not None
    order = np.array(shuffle)
    mixed = Picks(picks.positions[order], picks.orientations[order])
    names = np.array(["a", "b", "a"] * 8)
    one = measure(mesh, picks, object_names=names.tolist(), n_simulations=3)
    other = measure(mesh, mixed, object_names=names[order].tolist(), n_simulations=3)
    for table in ("membranes", "membrane_histograms", "particle_histograms", "binned_neighbors", "pair_counts"):
        assert one[table] == other[table], table
    for table in ("binned_pair_counts", "random_pair_counts", "random_chains", "chains"):
        assert one[table] == other[table], table
    back = np.argsort(order)
    members = [(row["chain_id"], row["place"], int(back[row["particle_id"]])) for row in one["chain_members"]]
    assert members == [(row["chain_id"], row["place"], row["particle_id"]) for row in other["chain_members"]]
    renamed = measure(mesh, picks, object_names=["x" if name == "a" else "y" for name in names], n_simulations=3)
    assert [r["n_pairs"] for r in one["pair_counts"]] == [r["n_pairs"] for r in renamed["pair_counts"]]
    assert [r["geodesic_nm"] for r in one["neighbors"]] == [r["geodesic_nm"] for r in renamed["neighbors"]]

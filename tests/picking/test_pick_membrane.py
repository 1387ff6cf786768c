"""Operators, patches, clusters and picks on meshes whose truth is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse
import trimesh
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.spectral.heat_method import HeatDistances
from membrain_cloud.mesh.spectral.operators import (
    Operators,
    cotan_laplacian,
    surface_operators,
    tangent_gradients,
    vertex_areas,
)
from membrain_cloud.picking import clustering
from membrain_cloud.picking.clustering import dense_clusters, mean_shift
from membrain_cloud.picking.mesh_patches import cut_into_patches, edge_graph, released_patches
from membrain_cloud.picking.pick_membrane import Clustering, best_of_classes, cluster_picks, pick_membrane
from membrain_cloud.picking.vertex_scores import FAR_SCORE, vertex_scores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def sphere(radius: float = 400.0, subdivisions: int = 4, center: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions, radius=radius)
    return Mesh(np.array(shape.vertices, np.float64) + center, np.array(shape.faces, np.int32))


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    faces = np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)])
    return Mesh(np.concatenate([m.vertices for m in meshes]), faces.astype(np.int32))


def distances(mesh: Mesh, centers: NDArray) -> NDArray[np.float32]:
    """What a perfect picker would predict."""
    return np.minimum(cKDTree(centers).query(mesh.vertices)[0] / 15.0, FAR_SCORE).astype(np.float32)


def directions(count: int, seed: int, apart: float) -> NDArray[np.float64]:
    """Unit vectors at least `apart` radians apart."""
    rng, found = np.random.default_rng(seed), np.zeros((0, 3))
    while len(found) < count:
        new = rng.normal(size=3)
        new /= np.linalg.norm(new)
        if not len(found) or np.max(found @ new) < math.cos(apart):
            found = np.vstack([found, new])
    return found


CLUSTERING = {
    "bandwidth_angstrom": 75.0,
    "score_threshold": 7.0,
    "max_iterations": 150,
    "min_samples": 5,
    "center_offset_angstrom": 0.0,
    "largest_nm2": None,
    "min_distance_angstrom": None,
    "least_elongation": 1.5,
    "membrane_id": 3,
}
CLUSTERS = Clustering(
    bandwidth_angstrom=75.0,
    score_threshold=7.0,
    max_iterations=150,
    min_samples=5,
    center_offset_angstrom=25.0,
    largest_nm2=None,
    min_distance_angstrom=70.0,
    least_elongation=1.5,
    refine=True,
)

# -- operators -----------------------------------------------------------------------------------------------------


def test_operators_equal_membrain_picks(reference: Path) -> None:
    with np.load(reference / "membrain-pick" / "golden_partition.npz", allow_pickle=False) as stored:
        golden = dict(stored)
    count = len(golden["mass"])

    def sparse(name: str) -> scipy.sparse.csr_matrix:
        places = (golden[f"{name}_row"], golden[f"{name}_col"])
        return scipy.sparse.csr_matrix((golden[f"{name}_val"], places), shape=(count, count))

    ours = surface_operators(
        golden["verts_orig_A"], golden["faces"], golden["normals"], eigenpairs=128, length_unit_angstrom=500.0
    )
    np.testing.assert_allclose(ours.mass, golden["mass"], rtol=1e-5)
    np.testing.assert_allclose(ours.eigenvalues, golden["evals"], atol=1e-3)
    # Signs are anybody's choice; what the vectors span is not.
    np.testing.assert_allclose(ours.eigenvectors @ ours.eigenvectors.T, golden["evecs"] @ golden["evecs"].T, atol=2e-3)
    assert abs(ours.gradient_x - sparse("gradX")).max() < 1e-3
    assert abs(ours.gradient_y - sparse("gradY")).max() < 1e-3
    laplacian = cotan_laplacian(golden["verts_norm"].astype(np.float64), golden["faces"])
    assert abs(laplacian - sparse("L")).max() < 1e-5


def test_laplacian_of_a_sphere_has_its_spectrum() -> None:
    mesh = sphere(500.0)
    found = surface_operators(
        mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=16, length_unit_angstrom=500.0
    )
    expected = [level * (level + 1) for level in range(4) for _ in range(2 * level + 1)]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=0.1)
    assert found.mass.sum() == pytest.approx(4 * math.pi, rel=0.01)
    gram = found.eigenvectors.T @ (found.eigenvectors * found.mass[:, None])
    np.testing.assert_allclose(gram, np.eye(16), atol=1e-4)


def test_gradients_are_those_of_a_linear_function() -> None:
    mesh = sphere(1.0)
    normals = mesh.vertex_normals()
    slope = np.array([0.3, -1.2, 0.7])
    x, y = tangent_gradients(mesh.vertices, mesh.faces, normals)
    values = mesh.vertices @ slope
    length = np.hypot(x @ values, y @ values)
    tangential = np.linalg.norm(slope - (normals @ slope)[:, None] * normals, axis=1)
    np.testing.assert_allclose(length, tangential, atol=0.03)
    np.testing.assert_allclose(x @ np.ones(len(values)), 0, atol=1e-9)


def test_operators_are_the_same_every_time() -> None:
    mesh = sphere()
    one, two = (
        surface_operators(mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=20, length_unit_angstrom=500.0)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.eigenvectors, two.eigenvectors)


@pytest.mark.parametrize("subdivisions", [0, 1])
def test_small_meshes_have_as_many_eigenpairs_as_vertices(subdivisions: int) -> None:
    mesh = sphere(30.0, subdivisions)
    found = surface_operators(
        mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=128, length_unit_angstrom=500.0
    )
    count = len(mesh.vertices)
    assert found.eigenvectors.shape == (count, count)
    assert np.isfinite(found.eigenvectors).all()


def test_degenerate_faces_and_lone_vertices_stay_finite() -> None:
    mesh = sphere(100.0, 1)
    vertices = np.vstack([mesh.vertices, [[500.0, 0, 0]]])
    faces = np.vstack([mesh.faces, [[0, 0, 1], [0, 1, 0]]]).astype(np.int32)
    bad = Mesh(vertices, faces)
    found = surface_operators(vertices, faces, bad.vertex_normals(), eigenpairs=10, length_unit_angstrom=500.0)
    for values in (found.mass, found.eigenvalues, found.eigenvectors, found.gradient_x.data, found.gradient_y.data):
        assert np.isfinite(values).all()


def test_vertex_areas_sum_to_the_surface() -> None:
    mesh = sphere(100.0, 2)
    assert vertex_areas(mesh.vertices, mesh.faces).sum() == pytest.approx(mesh.area_angstrom2())


# -- patches -------------------------------------------------------------------------------------------------------


def test_patches_cover_every_vertex_well_inside() -> None:
    mesh = sphere(1500.0, 5)
    patches = cut_into_patches(mesh, partition_vertices=1000)
    best = np.zeros(len(mesh.vertices))
    for patch in patches:
        np.maximum.at(best, patch.vertices, patch.weights)
        assert 700 <= len(patch.vertices) <= 1600
        assert patch.weights.min() > 0
        assert patch.faces.max() < len(patch.vertices)
        # A patch is a piece of the mesh, in one piece.
        piece = Mesh(mesh.vertices[patch.vertices], patch.faces.astype(np.int32))
        assert scipy.sparse.csgraph.connected_components(edge_graph(piece))[0] == 1
    assert best.min() == 1.0  # in the cell of some patch
    assert sum(len(p.vertices) for p in patches) <= 2.5 * len(mesh.vertices)


def test_a_cell_keeps_its_distance_from_the_patchs_rim() -> None:
    mesh = sphere(1500.0, 5)
    for patch in cut_into_patches(mesh, partition_vertices=1000)[:5]:
        piece = Mesh(mesh.vertices[patch.vertices], patch.faces.astype(np.int32))
        edges = np.sort(np.concatenate([patch.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
        pairs, uses = np.unique(edges, axis=0, return_counts=True)
        rim = piece.vertices[np.unique(pairs[uses == 1])]
        inside = piece.vertices[patch.weights == 1.0]
        assert cKDTree(rim).query(inside)[0].min() > 100.0


def test_components_never_share_a_patch() -> None:
    """Two concentric shells, as the leaflets of a vesicle, closer to each other than a patch is wide."""
    mesh = together(sphere(900.0), sphere(850.0))
    half = len(mesh.vertices) // 2
    patches = cut_into_patches(mesh, partition_vertices=800)
    for patch in patches:
        assert (patch.vertices < half).all() or (patch.vertices >= half).all()
    assert set(np.concatenate([p.vertices for p in patches])) == set(range(2 * half))


def test_patches_are_the_same_every_time() -> None:
    mesh = sphere(900.0)
    for one, two in zip(*(cut_into_patches(mesh, partition_vertices=500) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(one.vertices, two.vertices)
        np.testing.assert_array_equal(one.weights, two.weights)


def test_a_small_component_is_one_patch_and_crumbs_are_none() -> None:
    crumb = Mesh(np.array([[5e3, 0, 0], [5e3, 9.0, 0], [5e3, 0, 9.0]]), np.array([[0, 1, 2]], np.int32))
    alone = Mesh(np.array([[9e3, 0, 0]]), np.zeros((0, 3), np.int32))
    mesh = together(sphere(100.0, 2), crumb, alone)
    patches = cut_into_patches(mesh, partition_vertices=2000)
    assert [len(p.vertices) for p in patches] == [162]
    np.testing.assert_array_equal(patches[0].weights, 1.0)


def test_an_empty_mesh_has_no_patches() -> None:
    assert cut_into_patches(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), partition_vertices=100) == []


# -- scores --------------------------------------------------------------------------------------------------------


def first_channel(profiles: NDArray, operators: object) -> NDArray:
    return profiles[:, 0]


def test_patches_merge_to_what_was_predicted() -> None:
    mesh = sphere(1500.0, 5)
    truth = np.random.default_rng(0).uniform(0, 10, len(mesh.vertices)).astype(np.float32)
    done: list[int] = []
    scores = vertex_scores(
        mesh,
        truth[:, None],
        first_channel,
        partition_vertices=2000,
        eigenpairs=4,
        length_unit_angstrom=500.0,
        progress=done.append,
    )
    np.testing.assert_allclose(scores, truth, atol=1e-5)
    assert sum(done) >= len(mesh.vertices)


def test_overlaps_are_averaged_with_the_weights() -> None:
    """Each patch answers its number: a vertex of one cell is nearer to that patch's than to any other."""
    mesh = sphere(1000.0, 5)
    patches = cut_into_patches(mesh, partition_vertices=3000)
    answers = iter(range(len(patches)))
    scores = vertex_scores(
        mesh,
        np.zeros((len(mesh.vertices), 1), np.float32),
        lambda profiles, operators: np.full(len(profiles), float(next(answers))),
        partition_vertices=3000,
        eigenpairs=4,
        length_unit_angstrom=500.0,
    )
    expected, weight = np.zeros(len(scores)), np.zeros(len(scores))
    for number, patch in enumerate(patches):
        expected[patch.vertices] += number * patch.weights
        weight[patch.vertices] += patch.weights
    np.testing.assert_allclose(scores, expected / weight, rtol=1e-5)


def test_vertices_in_no_patch_are_far() -> None:
    mesh = together(sphere(100.0, 1), Mesh(np.array([[9e3, 0, 0]]), np.zeros((0, 3), np.int32)))
    scores = vertex_scores(
        mesh,
        np.zeros((43, 1), np.float32),
        first_channel,
        partition_vertices=2000,
        eigenpairs=8,
        length_unit_angstrom=500.0,
    )
    assert scores[-1] == FAR_SCORE
    assert (scores[:-1] == 0).all()


# -- clusters ------------------------------------------------------------------------------------------------------


def plain_mean_shift(points: NDArray, scores: NDArray, bandwidth: float, iterations: int) -> NDArray:
    """The definition, with a matrix of all pairs."""
    importance = np.clip(10 - scores, 0.01, 10) + 0.05
    seeds = points.copy()
    for _ in range(iterations):
        distance = np.linalg.norm(seeds[:, None] - points[None], axis=2)
        weight = np.maximum(bandwidth - distance, 0) * importance
        moved = weight @ points / weight.sum(axis=1, keepdims=True)
        shift = np.linalg.norm(moved - seeds, axis=1).mean()
        seeds = moved
        if shift < 1e-3 * bandwidth:
            break
    return seeds


@pytest.mark.parametrize("iterations", [1, 3, 150])
def test_mean_shift_is_its_definition(iterations: int) -> None:
    rng = np.random.default_rng(0)
    points, scores = rng.uniform(-300, 300, (400, 3)) * [1, 1, 0.1] + 1e4, rng.uniform(-1, 12, 400)
    found = mean_shift(points, scores, bandwidth_angstrom=75.0, max_iterations=iterations)
    np.testing.assert_allclose(found, plain_mean_shift(points, scores, 75.0, iterations), atol=1e-6)


def test_mean_shift_of_nothing_and_of_one() -> None:
    assert mean_shift(np.zeros((0, 3)), np.zeros(0), bandwidth_angstrom=75.0, max_iterations=9).shape == (0, 3)
    one = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(mean_shift(one, np.ones(1), bandwidth_angstrom=75.0, max_iterations=9), one)


def plain_dbscan(points: NDArray, radius: float, min_samples: int) -> list[set[int]]:
    """Sets of core points that reach each other, by walking."""
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= radius
    core = np.flatnonzero(near.sum(axis=1) >= min_samples)
    left, found = set(core.tolist()), []
    while left:
        todo, cluster = [left.pop()], set()
        while todo:
            here = todo.pop()
            cluster.add(here)
            reached = {j for j in left if near[here, j]}
            left -= reached
            todo += reached
        found.append(cluster)
    return sorted(found, key=min)


def test_dense_clusters_are_dbscans(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.normal(c, 8.0, (30, 3)) for c in ((0, 0, 0), (60, 0, 0), (0, 80, 0))])
    points = np.concatenate([points, rng.uniform(-200, 200, (40, 3))])[rng.permutation(130)]
    labels = dense_clusters(points, radius=12.0, min_samples=5)
    clusters = plain_dbscan(points, 12.0, 5)
    core = set().union(*clusters)
    assert len(clusters) >= 3
    for cluster in clusters:
        assert len({labels[i] for i in cluster}) == 1
    assert len({labels[min(c)] for c in clusters}) == len(clusters)
    for i in set(range(len(points))) - core:
        near_core = [j for j in core if np.linalg.norm(points[i] - points[j]) <= 12.0]
        assert (labels[i] == -1) == (not near_core)
        assert not near_core or labels[i] in {labels[j] for j in near_core}
    # The same, one pair at a time.
    monkeypatch.setattr(clustering, "_PAIRS_AT_ONCE", 1)
    np.testing.assert_array_equal(dense_clusters(points, radius=12.0, min_samples=5), labels)


def test_points_without_company_are_noise() -> None:
    assert dense_clusters(np.eye(3) * 100, radius=5.0, min_samples=2).tolist() == [-1, -1, -1]


def test_picks_are_where_the_scores_are_low() -> None:
    mesh = sphere(500.0, 5)
    centers = 500.0 * directions(12, seed=0, apart=0.5)
    picks = cluster_picks(mesh, distances(mesh, centers), **CLUSTERING)
    assert len(picks) == 12
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0
    assert picks.orientations is not None
    outward = picks.positions / np.linalg.norm(picks.positions, axis=1, keepdims=True)
    assert ((picks.orientations[:, :, 2] * outward).sum(axis=1) > 0.99).all()
    assert (np.diff(picks.scores) <= 0).all()
    assert 0.5 < picks.scores.min() <= picks.scores.max() <= 1.0
    assert set(picks.membrane_ids) == {3}


def test_the_offset_moves_picks_along_the_outward_normal() -> None:
    mesh = sphere(500.0)
    scores = distances(mesh, 500.0 * directions(4, seed=0, apart=0.6))
    here, deeper = (
        cluster_picks(mesh, scores, **(CLUSTERING | {"center_offset_angstrom": offset})) for offset in (0.0, -27.0)
    )
    assert here.orientations is not None
    np.testing.assert_allclose(deeper.positions, here.positions - 27.0 * here.orientations[:, :, 2])


@pytest.mark.parametrize("score", [9.0, 10.0])
def test_nothing_below_the_threshold_gives_no_picks(score: float) -> None:
    mesh = sphere(300.0, 3)
    picks = cluster_picks(mesh, np.full(len(mesh.vertices), score), **(CLUSTERING | {"score_threshold": 9.0}))
    assert len(picks) == 0
    assert picks.orientations is not None
    assert picks.orientations.shape == (0, 3, 3)


def test_too_few_low_vertices_give_no_picks() -> None:
    mesh = sphere(300.0, 3)
    scores = np.full(len(mesh.vertices), 10.0)
    scores[:2] = 0.0
    assert len(cluster_picks(mesh, scores, **CLUSTERING)) == 0


# -- all together --------------------------------------------------------------------------------------------------


class BrightnessPicker:
    """A stand-in for a network: far where the density above the membrane is 0, near where it is 1."""

    offsets_angstrom = np.array([0.0, 20.0])
    spline_order = 1
    eigenpairs = 8
    partition_vertices = 700
    length_unit_angstrom = 500.0
    partitions = "even"

    def predict(self, profiles: NDArray, operators: object) -> NDArray[np.float32]:
        return (10.0 - 9.0 * np.clip(profiles[:, 1], 0, 1)).astype(np.float32)


@pytest.fixture
def bumpy() -> tuple[Mesh, NDArray, Grid, NDArray]:
    grid = Grid((90, 90, 90), 10.0)
    middle = np.array([450.0, 440.0, 430.0])
    mesh = sphere(300.0, 4, tuple(middle))
    centers = middle + 325.0 * directions(6, seed=1, apart=0.8)
    places = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1) * 10.0
    density = np.zeros(grid.shape)
    for center in centers:
        density += np.exp(-0.5 * ((places - center) ** 2).sum(-1) / 25.0**2)
    return mesh, density, grid, centers


@pytest.mark.parametrize("partition", [None, 1000])
@pytest.mark.parametrize("convert", [lambda d: d.astype(np.float16), lambda d: d])
def test_a_membrane_is_picked(
    bumpy: tuple[Mesh, NDArray, Grid, NDArray], convert: Callable, partition: int | None
) -> None:
    mesh, density, grid, centers = bumpy
    picked, scores = pick_membrane(
        mesh,
        lambda box: convert(density)[box.slices],
        grid,
        BrightnessPicker(),
        outside=0.0,
        partition_vertices=partition,
        clustering=CLUSTERS,
        membrane_id=1,
    )
    (picks,) = picked
    assert scores.shape == (len(mesh.vertices),)
    assert isinstance(picks, Picks)
    assert len(picks) == len(centers)
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0


class TwoClasses(BrightnessPicker):
    """Bright spots are of the first class, dark ones of the second."""

    def predict(self, profiles: NDArray, operators: object) -> NDArray[np.float32]:
        bright, dark = np.clip(profiles[:, 1], 0, 1), np.clip(-profiles[:, 1], 0, 1)
        return np.stack([10.0 - 9.0 * bright, 10.0 - 9.0 * dark], axis=1).astype(np.float32)


class BoxBrightness:
    """The same from boxes: the density a little above their middles."""

    edge, spacing_angstrom = 6, 10.0

    def predict_boxes(self, boxes: NDArray, *, mean: float, deviation: float) -> NDArray[np.float32]:
        assert boxes.shape[1:] == (6, 6, 6)
        return (10.0 - 9.0 * np.clip(boxes[:, 4:, 2:4, 2:4].mean(axis=(1, 2, 3)), 0, 1)).astype(np.float32)


def pick(mesh: Mesh, density: NDArray, grid: Grid, picker: object) -> list[Picks]:
    picks, _ = pick_membrane(
        mesh,
        lambda box: density[box.slices],
        grid,
        picker,  # type: ignore[arg-type]
        outside=0.0,
        partition_vertices=None,
        clustering=CLUSTERS,
        membrane_id=1,
    )
    return picks


def test_each_class_has_its_own_picks(bumpy: tuple[Mesh, NDArray, Grid, NDArray]) -> None:
    mesh, density, grid, centers = bumpy
    signs = np.where(np.arange(len(centers)) % 2, -1.0, 1.0)
    places = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1) * 10.0
    owner = cKDTree(centers).query(places.reshape(-1, 3))[1].reshape(grid.shape)
    bright, dark = pick(mesh, density * signs[owner], grid, TwoClasses())
    for picks, sign in ((bright, 1.0), (dark, -1.0)):
        assert len(picks) == np.count_nonzero(signs == sign)
        assert cKDTree(centers[signs == sign]).query(picks.positions)[0].max() < 20.0


def test_a_picker_that_sees_boxes_finds_the_same(bumpy: tuple[Mesh, NDArray, Grid, NDArray]) -> None:
    mesh, density, grid, centers = bumpy
    (picks,) = pick(mesh, density, grid, BoxBrightness())
    assert len(picks) == len(centers)
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0


def test_of_two_classes_at_one_place_the_better_stays() -> None:
    up = np.tile(np.eye(3), (2, 1, 1))
    first = Picks(np.array([[0.0, 0, 0], [500.0, 0, 0]]), up, np.array([0.9, 0.3]), in_plane=np.ones(2, bool))
    turned = up * np.array([1.0, -1.0, -1.0])
    second = Picks(np.array([[20.0, 0, 0], [510.0, 0, 0]]), up, np.array([0.5, 0.8]))
    kept = best_of_classes([first, second], within_angstrom=60.0)
    np.testing.assert_array_equal(kept[0].positions, [[0.0, 0, 0]])
    np.testing.assert_array_equal(kept[1].positions, [[510.0, 0, 0]])
    assert kept[0].in_plane is not None
    assert len(kept[0].in_plane) == 1
    other_side = best_of_classes([first, Picks(second.positions, turned, second.scores)], within_angstrom=60.0)
    assert [len(picks) for picks in other_side] == [2, 2]
    assert (
        best_of_classes([Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))] * 2, within_angstrom=60.0)[1].positions.size == 0
    )


def test_refining_frees_centres_from_the_pull_of_neighbours() -> None:
    mesh, apart = sphere(500.0, 5), 110.0
    sine, cosine = np.sin(apart / 1000.0), np.cos(apart / 1000.0)
    centers = 500.0 * np.array([[sine, 0.0, cosine], [-sine, 0.0, cosine]])
    scores = distances(mesh, centers)
    errors = [
        np.sort(cKDTree(centers).query(cluster_picks(mesh, scores, **CLUSTERING, refine=refine).positions)[0])[:2].max()
        for refine in (False, True)
    ]
    assert errors[0] > 8.0
    assert errors[1] < 4.0


def test_two_picks_on_one_particle_meet_in_its_middle() -> None:
    """Lowest scores at both ends of 44 Å, two clusters at a bandwidth of 25 Å."""
    mesh, ends = sphere(500.0, 5), np.radians([-2.5, 2.5])
    scores = distances(mesh, 500.0 * np.stack([np.sin(ends), 0 * ends, np.cos(ends)], axis=1))
    settings = CLUSTERING | {"bandwidth_angstrom": 25.0, "min_distance_angstrom": 25.0}
    middle = np.array([0.0, 0.0, 500.0])
    apart = cluster_picks(mesh, scores, **settings, refine=False).positions
    assert len(apart) == 2
    assert np.linalg.norm(apart - middle, axis=1).min() > 15.0
    (pick,) = cluster_picks(mesh, scores, **settings, refine=True).positions
    assert np.linalg.norm(pick - middle) < 10.0


@pytest.mark.parametrize("thickness", [40.0, 60.0])
def test_picks_lie_in_the_middle_of_the_slab(thickness: float) -> None:
    outer, inner = sphere(500.0 + thickness / 2, 5), sphere(500.0 - thickness / 2, 5)
    shell = together(outer, Mesh(inner.vertices, inner.faces[:, ::-1]))
    center = np.array([[0.0, 0.0, 500.0 + thickness / 2]])
    scores = distances(shell, center)
    scores[len(outer.vertices) :] = FAR_SCORE
    picks = cluster_picks(shell, scores, **(CLUSTERING | {"center_offset_angstrom": None}))
    assert len(picks) == 1
    assert np.linalg.norm(picks.positions[0]) == pytest.approx(500.0, abs=4.0)


# -- crowded membranes, distances, angles --------------------------------------------------------------------------


def crowd(spacing: float) -> NDArray:
    """Seven particles, each `spacing` from its neighbours, on a sphere of 500 Å about the origin."""
    angles = np.arange(6) * np.pi / 3
    tilt = 2 * np.arcsin(spacing / 1000.0)
    around = np.stack([np.sin(tilt) * np.cos(angles), np.sin(tilt) * np.sin(angles), np.full(6, np.cos(tilt))], axis=1)
    return 500.0 * np.vstack([[0.0, 0.0, 1.0], around])


@pytest.mark.parametrize("spacing", [75.0, 85.0])
def test_crowded_particles_are_told_apart(spacing: float) -> None:
    mesh, centers = sphere(500.0, 5), crowd(spacing)
    scores = distances(mesh, centers) + np.random.default_rng(0).normal(0, 0.7, len(mesh.vertices))
    merged = cluster_picks(mesh, scores, **CLUSTERING)
    split = cluster_picks(mesh, scores, **(CLUSTERING | {"largest_nm2": 100.0}))
    assert len(merged) < 5
    assert 7 <= len(split) <= 8
    assert cKDTree(split.positions).query(centers)[0].max() < 30.0
    # What is no larger than one particle stays as it was.
    alone = distances(mesh, centers[:1])
    for limit in (None, 1000.0):
        one = cluster_picks(mesh, alone, **(CLUSTERING | {"largest_nm2": limit}))
        np.testing.assert_array_equal(
            one.positions, cluster_picks(mesh, alone, **(CLUSTERING | {"largest_nm2": None})).positions
        )


def test_the_better_of_two_near_picks_stays() -> None:
    mesh = sphere(500.0, 5)
    centers = crowd(100.0)[:3]  # one in the middle, two beside it, all 100 Å apart
    scores = distances(mesh, centers)
    worse = cKDTree(mesh.vertices).query_ball_point(centers[1], 60.0)
    scores[worse] += 1.0
    settings = CLUSTERING | {"bandwidth_angstrom": 50.0}
    every = cluster_picks(mesh, scores, **settings)
    assert len(every) == 3
    kept = cluster_picks(mesh, scores, **(settings | {"min_distance_angstrom": 130.0}))
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.positions, every.positions[:1])
    assert len(cluster_picks(mesh, scores, **(settings | {"min_distance_angstrom": 70.0}))) == 3


def test_near_picks_on_two_leaflets_both_stay() -> None:
    """30 Å apart through the slab, far apart along it."""
    mesh = together(sphere(500.0, 5), Mesh(sphere(470.0, 5).vertices, sphere(470.0, 5).faces[:, ::-1].copy()))
    scores = np.full(len(mesh.vertices), 10.0)
    half = len(scores) // 2
    for part, radius in ((slice(0, half), 500.0), (slice(half, None), 470.0)):
        center = np.array([[0.0, 0.0, radius]])
        scores[part] = np.minimum(cKDTree(center).query(mesh.vertices[part])[0] / 15.0, 10.0)
    picks = cluster_picks(mesh, scores, **(CLUSTERING | {"bandwidth_angstrom": 25.0, "min_distance_angstrom": 60.0}))
    assert len(picks) == 2
    assert picks.orientations is not None
    assert picks.orientations[0, :, 2] @ picks.orientations[1, :, 2] < -0.99


def test_elongated_particles_have_an_in_plane_angle_and_round_ones_are_marked() -> None:
    mesh = sphere(500.0, 5)
    centers = 500.0 * directions(10, seed=2, apart=0.55)
    centers[0] = (500.0, 0.0, 0.0)  # its normal lies along x
    rng = np.random.default_rng(0)
    scores = np.full(len(mesh.vertices), 10.0)
    axes = []
    for index, center in enumerate(centers):
        normal = center / 500.0
        frame = np.linalg.svd(normal[None])[2][1:]
        angle = rng.uniform(0, np.pi)
        long = np.cos(angle) * frame[0] + np.sin(angle) * frame[1]
        axes.append(long)
        way = mesh.vertices - center
        along = way @ long
        stretch = 2.2 if index < 8 else 1.0
        distance = np.sqrt((way**2).sum(axis=1) - along**2 + (along / stretch) ** 2)
        scores = np.minimum(scores, distance / 15.0 + rng.normal(0, 0.3, len(scores)))
    picks = cluster_picks(mesh, scores, **(CLUSTERING | {"bandwidth_angstrom": 90.0, "score_threshold": 4.0}))
    assert len(picks) == 10
    assert picks.orientations is not None
    assert picks.in_plane is not None
    which = cKDTree(centers).query(picks.positions)[1]
    np.testing.assert_array_equal(picks.in_plane, which < 8)
    assert np.isfinite(picks.orientations).all()
    np.testing.assert_allclose(np.linalg.det(picks.orientations), 1.0)
    cosines = np.abs((picks.orientations[:, :, 0] * np.array(axes)[which]).sum(axis=1))[picks.in_plane]
    assert np.degrees(np.arccos(np.clip(cosines, 0, 1))).max() < 15.0
    tilts = (picks.orientations[:, :, 2] * centers[which] / 500.0).sum(axis=1)
    assert np.degrees(np.arccos(np.clip(tilts, -1, 1))).max() < 6.0


def test_an_in_plane_angle_is_the_particles_own_and_not_how_its_neighbours_and_the_rim_cut_it_off() -> None:
    """Scores without any noise, of particles so dense that no footprint is whole, the outermost cut by the rim."""
    side = np.arange(0.0, 600.0, 20.0)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    corner = np.arange(len(side) ** 2).reshape(len(side), -1)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    mesh = Mesh(np.stack([x, y, 0.0 * x], axis=1), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    centers = np.array([[x, y, 0.0] for x in range(20, 600, 110) for y in range(10, 600, 140)], float)
    angles = np.random.default_rng(3).uniform(0, np.pi, len(centers))

    def scored(stretch: float) -> NDArray[np.float64]:
        way = mesh.vertices[:, None, :2] - centers[None, :, :2]
        along = way[..., 0] * np.cos(angles) + way[..., 1] * np.sin(angles)
        across = way[..., 1] * np.cos(angles) - way[..., 0] * np.sin(angles)
        distance = np.sqrt((along / np.sqrt(stretch)) ** 2 + (across * np.sqrt(stretch)) ** 2) / 15.0
        found: NDArray[np.float64] = np.minimum(distance.min(axis=1), 10.0)
        return found

    settings = CLUSTERING | {"bandwidth_angstrom": 70.0, "score_threshold": 7.0, "min_distance_angstrom": 70.0}
    picks = cluster_picks(mesh, scored(2.1), **settings, refine=True)
    distance, which = cKDTree(centers).query(picks.positions)
    placed = distance < 25.0
    assert placed.mean() > 0.8
    assert picks.orientations is not None
    assert picks.in_plane is not None
    told = picks.in_plane & placed
    assert told.sum() > 0.9 * placed.sum()
    long = np.stack([np.cos(angles), np.sin(angles), 0.0 * angles], axis=1)[which]
    turned = np.degrees(np.arccos(np.clip(np.abs((picks.orientations[:, :, 0] * long).sum(axis=1)), 0, 1)))
    assert np.median(turned[told]) < 6.0
    assert np.quantile(turned[told], 0.8) < 25.0  # the corners of the sheet are the worst
    round_ones = cluster_picks(mesh, scored(1.0), **settings, refine=True)
    assert len(round_ones) > 20
    assert round_ones.in_plane is not None
    assert round_ones.in_plane.mean() < 0.1


def test_a_cache_knows_patches_by_their_content() -> None:
    mesh = sphere(500.0, 4)
    cache: dict[str, Operators] = {}

    def score(on: Mesh, eigenpairs: int) -> NDArray[np.float32]:
        profiles = np.zeros((len(on.vertices), 1), np.float32)
        return vertex_scores(
            on,
            profiles,
            lambda _, operators: operators.eigenvectors[:, 1],
            partition_vertices=2000,
            eigenpairs=eigenpairs,
            length_unit_angstrom=500.0,
            cache=cache,
        )

    first = score(mesh, 8)
    assert len(cache) == 1
    kept = dict(cache)
    np.testing.assert_array_equal(score(mesh, 8), first)
    assert cache == kept
    moved = Mesh(mesh.vertices + 1.0, mesh.faces)
    score(moved, 8)
    score(mesh, 9)
    assert len(cache) == 3


def test_several_classes_at_once() -> None:
    mesh = sphere(500.0, 3)
    truth = np.random.default_rng(0).uniform(0, 10, (len(mesh.vertices), 3)).astype(np.float32)
    scores = vertex_scores(
        mesh, truth, lambda profiles, _: profiles, partition_vertices=400, eigenpairs=4, length_unit_angstrom=500.0
    )
    np.testing.assert_allclose(scores, truth, atol=1e-5)


# -- the release's patches -----------------------------------------------------------------------------------------


def test_heat_distances_are_near_the_true_ones() -> None:
    mesh = sphere(400.0, 4)
    found = HeatDistances(mesh).from_vertex(5)
    cosine = np.clip(mesh.vertices @ mesh.vertices[5] / 400.0**2, -1, 1)
    assert np.abs(found - 400.0 * np.arccos(cosine)).max() < 40.0
    assert found[5] == 0
    assert found.min() == 0


def test_heat_distances_survive_holes_odd_edges_and_pieces() -> None:
    whole = sphere(400.0, 3)
    holes = Mesh(whole.vertices, np.delete(whole.faces, [3, 4, 5, 200, 201], axis=0))
    fin = np.array([[0, int(whole.faces[0, 1]), 300]], np.int32)
    odd = Mesh(whole.vertices, np.vstack([whole.faces, whole.faces[:1], fin]))
    alone = Mesh(np.vstack([whole.vertices, [[9e3, 0, 0]]]), whole.faces)
    for mesh in (holes, odd, together(whole, sphere(50.0, 2, (2e3, 0, 0))), alone):
        assert np.isfinite(HeatDistances(mesh).from_vertex(0)).all()


def test_released_patches_cover_the_mesh() -> None:
    mesh = sphere(900.0, 4)
    patches = released_patches(mesh, partition_vertices=800)
    best = np.zeros(len(mesh.vertices))
    for patch in patches:
        np.maximum.at(best, patch.vertices, patch.weights)
        assert len(patch.vertices) <= 800
        assert patch.faces.max() < len(patch.vertices)
    assert best.min() > 0.2
    assert sum(len(p.vertices) for p in patches) > 2.5 * len(mesh.vertices)
    assert released_patches(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), partition_vertices=100) == []

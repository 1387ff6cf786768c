"""Patches of meshes: they cover every vertex, stay within a component and keep cells away from their rims."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree
from standins.picking_surfaces import sphere, together

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.mesh_patches import cut_into_patches, edge_graph, released_patches


def test_patches_cover_every_vertex_well_inside() -> None:
    mesh = sphere(1500.0, 5)
    patches = cut_into_patches(mesh, partition_vertices=1000)
    best = np.zeros(len(mesh.vertices))
    for patch in patches:
        np.maximum.at(best, patch.vertices, patch.weights)
        assert 700 <= len(patch.vertices) <= 1600
        assert patch.weights.min() > 0
        assert patch.faces.max() < len(patch.vertices)
        # A patch is connected.
        part = Mesh(mesh.vertices[patch.vertices], patch.faces.astype(np.int32))
        assert scipy.sparse.csgraph.connected_components(edge_graph(part))[0] == 1
    assert best.min() == 1.0  # in the cell of some patch
    assert sum(len(p.vertices) for p in patches) <= 2.5 * len(mesh.vertices)


def test_a_cell_keeps_its_distance_from_the_patchs_rim() -> None:
    mesh = sphere(1500.0, 5)
    for patch in cut_into_patches(mesh, partition_vertices=1000)[:5]:
        part = Mesh(mesh.vertices[patch.vertices], patch.faces.astype(np.int32))
        edges = np.sort(np.concatenate([patch.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
        pairs, uses = np.unique(edges, axis=0, return_counts=True)
        rim = part.vertices[np.unique(pairs[uses == 1])]
        inside = part.vertices[patch.weights == 1.0]
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

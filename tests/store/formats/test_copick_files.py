"""Meshes and picks as copick stores them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from standins.oriented_picks import STRUCTURE, placed_structures, random_picks

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Mesh
from membrain_cloud.store.formats.copick_files import meshes_from_glb, meshes_to_glb, picks_from_json, picks_to_json
from membrain_cloud.store.refs import ObjectRef


def test_copicks_matrices_turn_the_particle_into_the_tomogram() -> None:
    picks = random_picks()
    ref = ObjectRef("TS_1", "p", "a", "1")
    content = picks_to_json(picks, ref)
    points = json.loads(content)["points"]
    theirs = []
    for point in points:
        matrix = np.array(point["transformation_"])
        theirs.append(STRUCTURE @ matrix[:3, :3].T + matrix[:3, 3] + [point["location"][axis] for axis in "xyz"])
    np.testing.assert_allclose(np.array(theirs), placed_structures(picks), atol=1e-9)
    np.testing.assert_array_equal(picks_from_json(content, "x").in_plane, picks.in_plane)
    assert picks_from_json(picks_to_json(replace(picks, in_plane=None), ref), "x").in_plane is None


def test_copick_ignores_our_own_columns() -> None:
    from copick.models import CopickPicksFile

    read = CopickPicksFile.model_validate_json(picks_to_json(random_picks(), ObjectRef("TS_1", "p", "a", "1")))
    assert read.points is not None
    assert len(read.points) == 40


TRIANGLE = Mesh(np.array([[0.0, 0, 0], [10, 0, 0], [0, 20, 30]]), np.array([[0, 1, 2]], np.int32))


def test_membranes_keep_their_numbers_and_equal_ones_give_equal_bytes() -> None:
    meshes = {7: TRIANGLE, 3: Mesh(TRIANGLE.vertices + 5, TRIANGLE.faces)}
    content = meshes_to_glb(meshes)
    assert content == meshes_to_glb(dict(reversed(meshes.items())))
    read = meshes_from_glb(content, "x")
    assert list(read) == [3, 7]
    for number, mesh in meshes.items():
        np.testing.assert_array_equal(read[number].vertices, mesh.vertices)
        np.testing.assert_array_equal(read[number].faces, mesh.faces)
    assert meshes_from_glb(meshes_to_glb({}), "x") == {}


def test_geometries_without_numbers_are_counted_and_placed() -> None:
    scene = trimesh.Scene()
    for name, shift in (("b", 100.0), ("a", 0.0)):
        transform = trimesh.transformations.translation_matrix([shift, 0, 0])
        geometry = trimesh.Trimesh(TRIANGLE.vertices, TRIANGLE.faces, process=False)
        scene.add_geometry(geometry, node_name=name, geom_name=name, transform=transform)
    read = meshes_from_glb(scene.export(file_type="glb"), "x")
    assert list(read) == [1, 2]
    np.testing.assert_allclose(read[2].vertices - read[1].vertices, [[100.0, 0, 0]] * 3)


def test_damaged_files_are_named() -> None:
    content = meshes_to_glb({1: TRIANGLE})
    with pytest.raises(ProjectError, match="mesh of TS_1"):
        meshes_from_glb(content[:-4], "mesh of TS_1")
    for damaged in (b"{", b'{"points": [{}]}', b'{"unit": "nanometer"}'):
        with pytest.raises(ProjectError, match="picks of TS_1"):
            picks_from_json(damaged, "picks of TS_1")

"""Meshes as other programs write them, through trimesh and h5py: read equal, mended with a note, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from membrain_cloud.errors import ProjectError
from membrain_cloud.mesh.repair import merge_vertices
from membrain_cloud.store.formats.meshes import read_h5, read_meshes

if TYPE_CHECKING:
    from pathlib import Path

SPHERE = trimesh.creation.icosphere(2, radius=50.0)
VERTICES, FACES = np.array(SPHERE.vertices), np.array(SPHERE.faces)


def write_h5(path: Path, **values: Any) -> str:
    with h5py.File(path, "w") as file:
        for name, value in ({"points": VERTICES, "faces": FACES, "scores": np.zeros(len(VERTICES))} | values).items():
            file[name] = value
    return str(path)


def soup() -> trimesh.Trimesh:
    """Return the sphere with three vertices of its own for each face."""
    return trimesh.Trimesh(VERTICES[FACES].reshape(-1, 3), np.arange(3 * len(FACES)).reshape(-1, 3), process=False)


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_triangle_soup_is_merged_with_a_note(tmp_path: Path, kind: str) -> None:
    path, notes = str(tmp_path / f"x.{kind}"), []
    soup().export(path)
    (mesh,) = read_meshes(path, voxel_spacing_angstrom=None, report=notes.append).values()
    assert len(mesh.vertices) == len(VERTICES) == 162
    assert len(mesh.faces) == len(FACES)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight
    assert "960 vertices at 162 places: they were merged" in notes[0]
    SPHERE.export(path)
    notes.clear()
    (mesh,) = read_meshes(path, voxel_spacing_angstrom=None, report=notes.append).values()
    assert not notes
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-4)
    assert merge_vertices(mesh) is mesh


@pytest.mark.parametrize(
    "faces",
    [
        np.insert(FACES, 0, 3, axis=1).ravel(),
        np.insert(FACES, 0, 3, axis=1),
        FACES.ravel(),
        FACES.astype(np.float64),
        FACES.astype(np.uint16),
    ],
    ids=["VTK, flat", "VTK, in rows", "triples, flat", "floats", "unsigned"],
)
def test_faces_as_vtk_has_them(tmp_path: Path, faces: np.ndarray) -> None:
    found = read_h5(write_h5(tmp_path / "x.h5", faces=faces)).mesh
    np.testing.assert_array_equal(found.faces[:, [0, 2, 1]], FACES)


def bad_points(place: int, value: float) -> np.ndarray:
    points = np.vstack([VERTICES, [[0.0, 0.0, 0.0]]])
    points[place, 1] = value
    return points


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"points": bad_points(3, np.nan)}, "1 of 162 vertices in use are NaN"),
        ({"points": bad_points(3, np.inf)}, "1 of 162 vertices in use are NaN or infinite"),
        ({"points": bad_points(-1, np.nan)}, ""),
        ({"normals": np.full(VERTICES.shape, np.nan)}, ""),
        ({"faces": np.insert(FACES, 0, 4, axis=1).ravel()[:-1]}, "no triangles"),
        ({"faces": FACES[:, :2]}, "no triangles"),
        ({"faces": FACES + 1000}, "not there"),
        ({"faces": -FACES - 1}, "not there"),
        ({"faces": np.array(["a"], "S1")}, "no triangles"),
        ({"points": VERTICES.ravel()}, "not \\(V, 3\\)"),
        ({"points": np.array(["a"], "S1")}, "not numbers"),
        ({"cluster_centers": VERTICES[:3], "cluster_scores": np.ones(2)}, "3 cluster_centers"),
        ({"cluster_centers": np.full((2, 3), np.nan)}, "cluster_centers have gaps"),
    ],
)
def test_vertices_and_faces_of_h5(tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    path = write_h5(tmp_path / "x.h5", **values)
    if cause:
        with pytest.raises(ProjectError, match=cause):
            read_h5(path)
        return
    stored = read_h5(path)
    assert np.isfinite(stored.mesh.vertices).all()
    assert stored.normals is None
    assert len(stored.mesh.faces) == len(FACES)


@pytest.mark.parametrize(
    "text", ["v nan 0 0", "v 0 inf 0", "v 0 0", "v a b c", "f 0 1 2", "f 1 2 9", "f 1 2", "f 1 2 x"]
)
def test_bad_lines_of_obj(tmp_path: Path, text: str) -> None:
    lines = ["v 0 0 0", "v 1 0 0", "v 0 1 0", "v 0 0 1", "f 1 2 3", "f 2 3 4", "f 5 1 2"]
    (tmp_path / "x.obj").write_text("\n".join([*lines[:4], text, *lines[4:]]))
    with pytest.raises(ProjectError):
        read_meshes(str(tmp_path / "x.obj"), voxel_spacing_angstrom=None)


def test_vertices_of_glb_that_are_not_finite(tmp_path: Path) -> None:
    mesh = trimesh.Trimesh(bad_points(3, np.nan), FACES, process=False)
    mesh.export(tmp_path / "x.glb")
    with pytest.raises(ProjectError, match="NaN or infinite"):
        read_meshes(str(tmp_path / "x.glb"), voxel_spacing_angstrom=None)


def test_a_file_that_announces_more_than_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("points", (10**9, 3), "f8", chunks=(1024, 3))
        file["faces"] = FACES
    with pytest.raises(ProjectError, match="announces 2400"):
        read_h5(str(tmp_path / "x.h5"), voxel_spacing_angstrom=1.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["obj", "glb", "h5"]),
    scale=st.floats(1e-3, 1e6),
    subdivisions=st.integers(0, 2),
    shift=st.floats(-1e4, 1e4),
)
def test_what_others_write_is_read_equal(
    tmp_path: Path, kind: str, scale: float, subdivisions: int, shift: float
) -> None:
    sphere = trimesh.creation.icosphere(subdivisions, radius=1.0)
    vertices, path = np.array(sphere.vertices) * scale + shift, tmp_path / f"x.{kind}"
    if kind == "h5":
        write_h5(path, points=vertices, faces=np.array(sphere.faces), scores=np.zeros(len(vertices)))
    else:
        trimesh.Trimesh(vertices, sphere.faces, process=False).export(path)
    merged = len(np.unique(vertices.astype(np.float32).round(8), axis=0)) < len(vertices)
    if merged and kind != "h5":
        return  # written with fewer digits than tell the vertices apart
    (mesh,) = read_meshes(str(path), voxel_spacing_angstrom=None).values()
    np.testing.assert_allclose(mesh.vertices, vertices, atol=1e-6 * (scale + abs(shift)) + 1e-7)
    assert len(mesh.faces) == len(sphere.faces)

"""Meshes as files of other programs, ours and theirs, there and back."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.store.formats.meshes import (
    StoredMesh,
    read_h5,
    read_meshes,
    read_obj,
    write_glb,
    write_h5,
    write_membranes,
    write_obj,
)


def sphere(radius: float = 100.0) -> Mesh:
    shape = trimesh.creation.icosphere(2, radius=radius)
    return Mesh(np.array(shape.vertices, np.float64), np.array(shape.faces, np.int32))


def outward(mesh: Mesh) -> float:
    """Signed volume: positive where the faces are wound outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def some_picks() -> Picks:
    normals = np.array([[1.0, 0, 0], [0, 0, -1.0]])
    return Picks(
        100 * normals,
        orientations_from_normals(normals),
        np.array([0.9, 0.4]),
        np.array([1, 1]),
        np.array([True, False]),
    )


def test_h5_comes_back_with_all_it_carries(tmp_path: Path) -> None:
    mesh, picks, path = sphere(), some_picks(), str(tmp_path / "mb.h5")
    rng = np.random.default_rng(0)
    stored = StoredMesh(
        mesh,
        normals=mesh.vertex_normals(),
        profiles=rng.normal(size=(len(mesh.vertices), 20)).astype(np.float32),
        scores=rng.uniform(0, 10, len(mesh.vertices)),
        picks=picks,
        tomogram="tomograms/TS_1.mrc",
    )
    write_h5(path, stored, voxel_spacing_angstrom=10.0)
    found = read_h5(path)
    np.testing.assert_array_equal(found.mesh.vertices, mesh.vertices)
    np.testing.assert_array_equal(found.mesh.faces, mesh.faces)
    for name in ("normals", "profiles", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(stored, name))
    assert found.tomogram == stored.tomogram
    assert found.picks is not None
    for name in ("positions", "orientations", "scores", "membrane_ids", "in_plane"):
        np.testing.assert_array_equal(getattr(found.picks, name), getattr(picks, name))
    assert [p.name for p in tmp_path.iterdir()] == ["mb.h5"]


def test_h5_is_what_membrain_pick_writes(tmp_path: Path, reference: Path) -> None:
    """The same names, shapes and kinds of numbers, and faces wound into the slab."""
    path = tmp_path / "mb.h5"
    write_h5(str(path), StoredMesh(sphere(), picks=some_picks()), voxel_spacing_angstrom=10.0)
    with h5py.File(path) as ours, h5py.File(reference / "membrain-pick/predict_random_t/Tomo0001_mb1.h5") as theirs:
        assert set(theirs) <= set(ours)
        for name in theirs:
            assert ours[name].dtype.kind == theirs[name].dtype.kind, name
            assert ours[name].ndim == theirs[name].ndim, name
        assert outward(Mesh(ours["points"][:], ours["faces"][:].astype(np.int32))) < 0
        np.testing.assert_array_equal(ours["cluster_centers"][:], some_picks().positions)


def test_files_of_membrain_pick(reference: Path) -> None:
    folder = reference / "membrain-pick"
    converted = read_h5(str(folder / "mesh_data/Tomo0001_mb1.h5"), voxel_spacing_angstrom=10.0)
    predicted = read_h5(str(folder / "predict_random_t/Tomo0001_mb1.h5"))
    assert converted.profiles is not None
    assert converted.profiles.shape == (3842, 20)
    assert outward(converted.mesh) > 0
    assert predicted.scores is not None
    assert predicted.tomogram == "input/tomograms/Tomo0001.mrc"
    # the same mesh in another order
    np.testing.assert_allclose(
        np.sort(predicted.mesh.vertices[:, 0]), np.sort(converted.mesh.vertices[:, 0]), atol=1e-3
    )
    normals = converted.mesh.vertex_normals()
    assert converted.normals is not None
    assert np.median((normals * converted.normals).sum(axis=1)) > 0.98
    with pytest.raises(VoxelSpacingError) as caught:
        read_h5(str(folder / "mesh_data/Tomo0001_mb1.h5"))
    assert "voxel_spacing_angstrom" in caught.value.next_step
    obj = read_obj(str(folder / "mesh_data/Tomo0001_mb1.obj"), unit_angstrom=10.0)
    np.testing.assert_allclose(obj.vertices, converted.mesh.vertices, atol=1e-3)


@pytest.mark.parametrize("kind", ["glb", "obj", "h5"])
def test_membranes_come_back(tmp_path: Path, kind: str) -> None:
    meshes = {2: sphere(), 5: sphere(70.0)}
    files = write_membranes(
        str(tmp_path / f"m.{kind}"), meshes, some_picks(), voxel_spacing_angstrom=10.0, unit_angstrom=1.0
    )
    names = [Path(file).name for file in files]
    assert names == (["m.glb"] if kind == "glb" else [f"m_2.{kind}", f"m_5.{kind}"])
    found = [read_meshes(file, voxel_spacing_angstrom=None) for file in files]
    if kind == "glb":
        assert list(found[0]) == [2, 5]
    both = [mesh for part in found for mesh in part.values()]
    for ours, theirs in zip(meshes.values(), both, strict=True):
        np.testing.assert_allclose(theirs.vertices, ours.vertices, atol=1e-4)
        np.testing.assert_array_equal(theirs.faces, ours.faces)


def test_an_obj_in_voxels(tmp_path: Path) -> None:
    path = str(tmp_path / "m.obj")
    write_obj(path, sphere(), unit_angstrom=10.0)
    assert np.abs(trimesh.load_mesh(path, process=False).vertices).max() < 10.01
    np.testing.assert_allclose(read_obj(path, unit_angstrom=10.0).vertices, sphere().vertices, atol=1e-6)


def test_an_obj_of_polygons_and_references(tmp_path: Path) -> None:
    path = tmp_path / "m.obj"
    path.write_text("# a square\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nf 1//1 2//1 -2//1 4//1\n")
    found = read_obj(str(path), unit_angstrom=1.0)
    assert found.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_plain_and_other_objs_are_read_alike(tmp_path: Path) -> None:
    write_obj(str(tmp_path / "plain.obj"), sphere(), unit_angstrom=1.0)
    lines = (tmp_path / "plain.obj").read_text().splitlines()

    def from_the_end(face: str) -> str:
        return " ".join(["f", *(str(int(corner) - 1 - len(sphere().vertices)) for corner in face.split()[1:])])

    written = {
        "comments on top": ["# of a program", "#", *lines],
        "a comment inside": [*lines[:5], "# here", *lines[5:]],
        "textures": [line if line[0] == "v" else line + "/1" for line in lines],
        "weights": [line + " 1.0" if line[0] == "v" else line for line in lines],
        "counted from the end": [line if line[0] == "v" else from_the_end(line) for line in lines],
    }
    plain = read_obj(str(tmp_path / "plain.obj"), unit_angstrom=1.0)
    np.testing.assert_array_equal(plain.faces, sphere().faces)
    for name, text in written.items():
        (tmp_path / "other.obj").write_text("\n".join(text))
        found = read_obj(str(tmp_path / "other.obj"), unit_angstrom=1.0)
        np.testing.assert_array_equal(found.vertices, plain.vertices, err_msg=name)
        np.testing.assert_array_equal(found.faces, plain.faces, err_msg=name)


def test_an_empty_glb(tmp_path: Path) -> None:
    write_glb(str(tmp_path / "m.glb"), {})
    assert read_meshes(str(tmp_path / "m.glb"), voxel_spacing_angstrom=None) == {}


def test_files_that_are_no_meshes_are_refused(tmp_path: Path) -> None:
    for name, content in (
        ("x.obj", "v 0 0 0\n"),
        ("y.obj", "v 0 0 0\nf 1 2 3\n"),
        ("z.obj", "v a b c\n"),
        ("x.h5", "no HDF5"),
        ("x.glb", "no GLB"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ProjectError, match=name) as caught:
            read_meshes(str(tmp_path / name), voxel_spacing_angstrom=1.0)
        assert caught.value.next_step
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(ProjectError, match="no points"):
        read_h5(str(tmp_path / "other.h5"))
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["points"], file["faces"], file["scores"] = np.zeros((3, 3)), np.array([[0, 1, 7]]), np.zeros(3)
    with pytest.raises(ProjectError, match="not there"):
        read_h5(str(tmp_path / "bad.h5"))
    with pytest.raises(UsageError, match="not known"):
        read_meshes("x.ply", voxel_spacing_angstrom=1.0)
    with pytest.raises(UsageError, match="not known"):
        write_membranes("x.ply", {}, None, voxel_spacing_angstrom=1.0, unit_angstrom=1.0)

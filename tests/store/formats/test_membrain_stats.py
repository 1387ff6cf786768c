"""Folders as membrain-stats reads them: names, units, windings and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from membrain_cloud.errors import ProjectError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.formats.membrain_stats import (
    MembraneFile,
    Units,
    list_folder,
    read_mesh,
    read_particles,
    read_star,
)
from membrain_cloud.store.formats.meshes import StoredMesh, write_h5, write_obj
from membrain_cloud.store.formats.star import write_star

if TYPE_CHECKING:
    from pathlib import Path


def ball(radius: float = 100.0) -> Mesh:
    shape = trimesh.creation.icosphere(2, radius=radius)
    return Mesh(np.array(shape.vertices, np.float64), np.array(shape.faces, np.int32))


def volume(mesh: Mesh) -> float:
    return float(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume)


def test_names_say_run_and_number(tmp_path: Path) -> None:
    for name in (
        "TS_1_mb3.h5",
        "TS_1_mb3.obj",
        "TS_1_mb1.obj",
        "TS_1_mb1_clusters.star",
        "vesicle.obj",
        ".x.obj",
        "a.txt",
    ):
        (tmp_path / name).touch()
    listed = list_folder(str(tmp_path))
    assert [(file.run, file.number) for file in listed] == [("TS_1", 1), ("TS_1", 3), ("vesicle", 1)]
    assert [file.mesh.rpartition("/")[2] for file in listed] == ["TS_1_mb1.obj", "TS_1_mb3.h5", "vesicle.obj"]
    assert [file.star is None for file in listed] == [False, True, True]
    named = list_folder(str(tmp_path), {"vesicle": "TS_1"})
    assert [(file.run, file.number) for file in named] == [("TS_1", 1), ("TS_1", 2), ("TS_1", 3)]
    (tmp_path / "empty").mkdir()
    for folder, why in (("empty", "no meshes"), ("absent", "No such file")):
        with pytest.raises(ProjectError, match=why):
            list_folder(str(tmp_path / folder))


def test_closed_meshes_are_wound_outwards_and_scaled(tmp_path: Path) -> None:
    mesh = ball()
    write_obj(str(tmp_path / "a.obj"), Mesh(mesh.vertices, mesh.faces[:, ::-1]), unit_angstrom=10.0)
    (file,) = list_folder(str(tmp_path))
    read = read_mesh(file, Units(mesh=10.0))
    assert volume(read) == pytest.approx(volume(mesh), rel=1e-6)
    open_mesh = Mesh(mesh.vertices, mesh.faces[1:, ::-1])
    write_obj(str(tmp_path / "a.obj"), open_mesh, unit_angstrom=1.0)
    np.testing.assert_array_equal(read_mesh(file, Units()).faces, open_mesh.faces)


def test_points_of_unknown_size_are_refused(tmp_path: Path, reference: Path) -> None:
    converted = MembraneFile("Tomo0001", 1, str(reference / "membrain-pick/mesh_data/Tomo0001_mb1.h5"), None)
    with pytest.raises(VoxelSpacingError, match="unknown size"):
        read_mesh(converted, Units())
    assert len(read_mesh(converted, Units(mesh=10.0)).vertices) == 3842


def test_a_star_file_takes_precedence_and_has_classes(tmp_path: Path) -> None:
    positions = np.array([[10.0, 20.0, 30.0]])
    write_h5(str(tmp_path / "a.h5"), StoredMesh(ball(), picks=Picks(2 * positions)), voxel_spacing_angstrom=10.0)
    (file,) = list_folder(str(tmp_path))
    digest = file.sha256
    picks, classes = read_particles(file, Units(positions=3.0), inverse_angles=False)
    assert picks is not None
    np.testing.assert_allclose(picks.positions, 6 * positions)
    assert classes == [0]
    star = tmp_path / "a_clusters.star"
    write_star(str(star), Picks(positions), voxel_spacing_angstrom=5.0, tomogram="A")
    (file,) = list_folder(str(tmp_path))
    assert file.sha256 != digest
    picks, _ = read_particles(file, Units(), inverse_angles=False)
    assert picks is not None
    np.testing.assert_allclose(picks.positions, positions)
    star.write_text(
        "data_\n\nloop_\n"
        + "".join(f"_rlnCoordinate{axis} #{k}\n" for k, axis in enumerate("XYZ", 1))
        + "_rlnClassNumber #4\n1 2 3 4\n5 6 7 8\n"
    )
    picks, classes = read_star(str(star), Units(), tomogram=None, inverse_angles=False)
    np.testing.assert_allclose(picks.positions, [[1, 2, 3], [5, 6, 7]])
    assert classes == [4, 8]

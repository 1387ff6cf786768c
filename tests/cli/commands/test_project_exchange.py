"""Annotations out of a project and back, as files of other programs, from the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

MEMBRANES, PARTICLES = "membrane:alice/1", "psii:alice/1"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def done(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    made = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    made.write_tomogram(TomogramRef("TS_1", "wbp", 8.0), np.zeros((20, 40, 60), np.float32))
    sphere = trimesh.creation.icosphere(2, radius=60.0)
    mesh = Mesh(np.array(sphere.vertices) + 100.0, np.array(sphere.faces, np.int32))
    made.write_meshes(
        ObjectRef("TS_1", "membrane", "alice", "1"), {3: mesh, 4: replace(mesh, vertices=mesh.vertices + 150)}
    )
    normals = mesh.vertex_normals()[:12]
    picks = Picks(
        mesh.vertices[:12],
        orientations_from_normals(normals, np.arange(12) / 2),
        np.linspace(0, 1, 12),
        np.array([3, 4] * 6),
        np.arange(12) % 2 == 0,
    )
    made.write_picks(ObjectRef("TS_1", "psii", "alice", "1"), picks)
    return made


def assert_same(found: Picks, expected: Picks, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.positions, expected.positions, atol=10 * atol)
    np.testing.assert_allclose(found.orientations, expected.orientations, atol=atol)
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol)
    np.testing.assert_array_equal(found.membrane_ids, expected.membrane_ids)
    np.testing.assert_array_equal(found.in_plane, expected.in_plane)


@pytest.mark.parametrize("flavour", ["plain", "relion3.1", "relion4", "relion5"])
def test_picks_through_star(project: Project, flavour: str) -> None:
    done("export", "star", project.config, PARTICLES, "-r", "TS_1", "--output", "p.star", "--for", flavour)
    uri = done("import", "picks", project.config, "p.star", "-r", "TS_1", "--object", "psii", "--user", "bob")
    original = project.read_picks(project.object("TS_1", PARTICLES))
    assert_same(project.read_picks(project.object("TS_1", uri)), original)


def test_picks_through_a_motive_list(project: Project) -> None:
    done("export", "motl", project.config, PARTICLES, "-r", "TS_1", "--output", "p.em")
    options = ("-r", "TS_1", "--object", "psii", "--user", "bob")
    uri = done("import", "picks", project.config, "p.em", *options, "--voxel-spacing", "8")
    original = project.read_picks(project.object("TS_1", PARTICLES))
    assert_same(project.read_picks(project.object("TS_1", uri)), original)
    refused = call("import", "picks", project.config, "p.em", *options)
    assert refused.exit_code != 0
    assert "voxel_spacing_angstrom" in refused.output
    refused = call("import", "picks", project.config, "p.em", *options, "--voxel-spacing", "8", "--tomogram", "TS_1")
    assert "give the number" in refused.output


@pytest.mark.parametrize("kind", ["glb", "obj", "h5"])
def test_meshes_there_and_back(project: Project, kind: str) -> None:
    output = done(
        "export", "meshes", project.config, MEMBRANES, "-r", "TS_1", "--output", f"m.{kind}", "--picks", PARTICLES
    )
    files = output.split()
    assert len(files) == (1 if kind == "glb" else 2)
    uri = done("import", "meshes", project.config, *files, "-r", "TS_1", "--user", "bob")
    original = project.read_meshes(project.object("TS_1", MEMBRANES))
    found = project.read_meshes(project.object("TS_1", uri))
    assert list(found) == ([3, 4] if kind == "glb" else [1, 2])
    for ours, theirs in zip(original.values(), found.values(), strict=True):
        np.testing.assert_allclose(theirs.vertices, ours.vertices, atol=1e-3)
        np.testing.assert_array_equal(theirs.faces, ours.faces)


def test_a_star_without_angles_or_units(project: Project, tmp_path: Path) -> None:
    columns = "".join(f"_rlnCoordinate{axis} #{n}\n" for n, axis in enumerate("XYZ", 1))
    (tmp_path / "p.star").write_text(f"data_\n\nloop_\n{columns}10 20 30\n11 21 31\n")
    (tmp_path / "q.star").write_text("data_\n\nloop_\n_rlnAngleRot #1\n10\n")
    options = ("-r", "TS_1", "--object", "psii", "--user", "bob")
    refused = call("import", "picks", project.config, "p.star", *options)
    assert refused.exit_code == 2
    assert "give voxel_spacing_angstrom" in refused.output
    refused = call("import", "picks", project.config, "q.star", *options, "--voxel-spacing", "8")
    assert refused.exit_code == 2
    assert "no coordinates" in refused.output
    found = project.read_picks(
        project.object("TS_1", done("import", "picks", project.config, "p.star", *options, "--voxel-spacing", "8"))
    )
    np.testing.assert_allclose(found.positions, [[80, 160, 240], [88, 168, 248]])
    assert found.orientations is None


def test_picks_of_a_membrane_file(project: Project) -> None:
    done("export", "meshes", project.config, MEMBRANES, "-r", "TS_1", "--output", "m.h5", "--picks", PARTICLES)
    uri = done("import", "picks", project.config, "m_3.h5", "-r", "TS_1", "--object", "psii", "--user", "bob")
    original = project.read_picks(project.object("TS_1", PARTICLES))
    found = project.read_picks(project.object("TS_1", uri))
    np.testing.assert_allclose(found.positions, original.positions[::2])
    np.testing.assert_allclose(found.orientations, original.orientations[::2])


def test_what_cannot_be_read_is_said(project: Project, tmp_path: Path) -> None:
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    refused = call("import", "meshes", project.config, "bad.obj", "-r", "TS_1", "--user", "bob")
    assert refused.exit_code != 0
    assert "bad.obj" in refused.output
    refused = call("export", "meshes", project.config, MEMBRANES, "-r", "TS_1", "--output", "m.ply")
    assert refused.exit_code == 2
    assert ".glb" in refused.output

"""Annotations out of a project as files of other programs, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest
from click.testing import CliRunner
from standins.command_line import call

from membrain_cloud.cli.commands.exchange.export_files import export
from membrain_cloud.cli.commands.exchange.import_files import import_
from membrain_cloud.store.refs import SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from membrain_cloud.geometry import Picks
    from membrain_cloud.store.projects.project import Project

MEMBRANES, PARTICLES = "membrane:alice/1", "psii:alice/1"
BOBS = ("-r", "TS_1", "--object", "psii", "--user", "bob")


def output_of(group: click.Group, *arguments: str) -> str:
    result = CliRunner().invoke(group, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def assert_same(picks: Picks, expected: Picks, atol: float = 1e-4) -> None:
    assert picks.orientations is not None
    np.testing.assert_allclose(picks.positions, expected.positions, atol=10 * atol)
    np.testing.assert_allclose(picks.orientations, expected.orientations, atol=atol)
    np.testing.assert_allclose(picks.scores, expected.scores, atol=atol)
    np.testing.assert_array_equal(picks.membrane_ids, expected.membrane_ids)
    np.testing.assert_array_equal(picks.in_plane, expected.in_plane)


@pytest.mark.parametrize("flavour", ["plain", "relion3.1", "relion4", "relion5"])
def test_picks_through_star(spheres: Project, flavour: str) -> None:
    words = ("-r", "TS_1", "--output", "p.star", "--for", flavour)
    assert output_of(export, "star", spheres.config, PARTICLES, *words) == "12 picks -> p.star"
    uri = output_of(import_, "picks", spheres.config, "p.star", *BOBS)
    original = spheres.read_picks(spheres.object("TS_1", PARTICLES))
    assert_same(spheres.read_picks(spheres.object("TS_1", uri)), original)


def test_picks_through_a_motive_list(spheres: Project) -> None:
    output_of(export, "motl", spheres.config, PARTICLES, "-r", "TS_1", "--output", "p.em")
    uri = output_of(import_, "picks", spheres.config, "p.em", *BOBS, "--voxel-spacing", "8")
    original = spheres.read_picks(spheres.object("TS_1", PARTICLES))
    assert_same(spheres.read_picks(spheres.object("TS_1", uri)), original)
    refused = call("import", "picks", spheres.config, "p.em", *BOBS)
    assert refused.exit_code != 0
    assert "give --voxel-spacing" in refused.output
    refused = call("import", "picks", spheres.config, "p.em", *BOBS, "--voxel-spacing", "8", "--tomogram", "TS_1")
    assert "give the number" in refused.output


@pytest.mark.parametrize("kind", ["glb", "obj", "h5"])
def test_meshes_there_and_back(spheres: Project, kind: str) -> None:
    words = ("-r", "TS_1", "--output", f"m.{kind}", "--picks", PARTICLES)
    files = output_of(export, "meshes", spheres.config, MEMBRANES, *words).split()
    assert len(files) == (1 if kind == "glb" else 2)
    uri = output_of(import_, "meshes", spheres.config, *files, "-r", "TS_1", "--user", "bob")
    original = spheres.read_meshes(spheres.object("TS_1", MEMBRANES))
    meshes = spheres.read_meshes(spheres.object("TS_1", uri))
    assert list(meshes) == ([3, 4] if kind == "glb" else [1, 2])
    for mesh, expected in zip(meshes.values(), original.values(), strict=True):
        np.testing.assert_allclose(mesh.vertices, expected.vertices, atol=1e-3)
        np.testing.assert_array_equal(mesh.faces, expected.faces)


def test_picks_of_a_membrane_file(spheres: Project) -> None:
    words = ("-r", "TS_1", "--output", "m.h5", "--picks", PARTICLES)
    output_of(export, "meshes", spheres.config, MEMBRANES, *words)
    uri = output_of(import_, "picks", spheres.config, "m_3.h5", *BOBS)
    original = spheres.read_picks(spheres.object("TS_1", PARTICLES))
    picks = spheres.read_picks(spheres.object("TS_1", uri))
    assert picks.orientations is not None
    assert original.orientations is not None
    np.testing.assert_allclose(picks.positions, original.positions[::2])
    np.testing.assert_allclose(picks.orientations, original.orientations[::2])


def test_a_segmentation_as_mrc(spheres: Project, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (20, 40, 60)).astype(np.uint8)
    spheres.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "2", 8.0), labels)
    words = ("membrane:alice/2@8.0", "-r", "TS_1", "--output", "labels.mrc")
    assert output_of(export, "mrc", spheres.config, *words) == "labels.mrc"
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "labels.mrc"), labels)


def test_an_unknown_kind_of_file_is_refused(spheres: Project) -> None:
    refused = call("export", "meshes", spheres.config, MEMBRANES, "-r", "TS_1", "--output", "m.ply")
    assert refused.exit_code == 2
    assert ".glb" in refused.output


def test_a_run_without_a_tomogram_needs_a_spacing(vesicles: Project, tmp_path: Path) -> None:
    words = ("export", "star", vesicles.config, "psii:expert/1", "-r", "TS_2", "--output", str(tmp_path / "p.star"))
    refused = call(*words)
    assert refused.exit_code == 2
    assert "TS_2 has no tomogram" in refused.output
    assert "give --voxel-spacing" in refused.output
    assert call(*words, "--voxel-spacing", "10").exit_code == 0

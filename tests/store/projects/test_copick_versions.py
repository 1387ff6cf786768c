"""Projects of copick 1.31 and of copick 2: both are read here, and both read what is written here.

copick 1.31 writes OME-Zarr 0.4 in Zarr version 2; copick 2 writes 0.5 in version 3, one shard a level, floats through a
codec of numcodecs, and no object for chunks without a value. copick 1.31 runs in an environment of its own
(`benchmarks/readers.sh copick1`); its tests are skipped where that is absent.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins import copick_program
from standins.copick_program import COPICK_1, WHY_ABSENT

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

pytestmark = pytest.mark.filterwarnings("ignore")
needs_copick_1 = pytest.mark.skipif(not COPICK_1.exists(), reason=WHY_ABSENT)
VERSIONS = [pytest.param("1", marks=needs_copick_1), "2"]
OBJECTS = [("membrane", False, "GO:0016020"), ("psii", True, None)]
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
MASK, EMPTY = (SegmentationRef("TS_1", "membrane", "other", session, 10.0) for session in "12")
SEED = 5


def with_copick(version: str, *words: str) -> Any:
    """Run the stand-in program with a version of copick and return what it found."""
    if version == "2":  # that of this environment
        return copick_program.read(words[1]) if words[0] == "read" else copick_program.write(words[1], int(words[2]))
    done = subprocess.run([str(COPICK_1), copick_program.__file__, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout) if words[0] == "read" else None


@functools.cache
def made_by(version: str, folder: Path) -> Path:
    project = create_project(str(folder / version), objects=OBJECTS)
    with_copick(version, "write", project.config, str(SEED))
    return folder / version


def written(version: str, scratch: pytest.TempPathFactory, folder: Path) -> Project:
    """Return a copy of the project that a version of copick wrote, which is written once."""
    shutil.copytree(made_by(version, scratch.getbasetemp() / "copick-versions"), folder)
    text = (folder / "config.json").read_text()
    settings = json.loads(text) | {"overlay_root": f"local://{folder}"}
    (folder / "config.json").write_text(json.dumps(settings))
    return CopickProject.open(str(folder / "config.json"))


def listed(project: Project) -> dict[str, Any]:
    """Return what this package finds, in the form of the stand-in program."""
    runs = {}
    for run in project.runs():
        runs[run] = {
            "tomograms": {
                f"{ref.tomogram_type}@{ref.voxel_spacing_angstrom:g}": copick_program.digest(project.read_density(ref))
                for ref in project.all_tomograms(run)
            },
            "segmentations": {
                ref.uri: copick_program.digest(project.read_labels(ref)) for ref in project.segmentations(run)
            },
            "picks": {ref.uri: project.read_picks(ref).positions.tolist() for ref in project.picks(run)},
            "meshes": {
                ref.uri: sorted(len(mesh.faces) for mesh in project.read_meshes(ref).values())
                for ref in project.meshes(run)
            },
        }
    return {"objects": sorted(each["name"] for each in project.settings["pickable_objects"]), "runs": runs}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_project_of_copick_is_read_as_copick_reads_it(
    version: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = written(version, tmp_path_factory, tmp_path / "p")
    data = copick_program.volumes(SEED)
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), data["tomogram"])
    np.testing.assert_array_equal(project.read_labels(MASK), data["mask"])
    assert not project.read_labels(EMPTY).any()
    assert (project.grid(TOMOGRAM).shape, project.grid(TOMOGRAM).voxel_spacing_angstrom) == (copick_program.SHAPE, 10.0)
    assert listed(project) == with_copick("2", "read", project.config)


@needs_copick_1
def test_what_copick_1_leaves_in_a_project_of_copick_2_is_passed_over(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = written("2", tmp_path_factory, tmp_path / "p")
    before = listed(project)
    subprocess.run([str(COPICK_1), copick_program.__file__, "read", project.config], capture_output=True)
    left = [path for path in Path(project.root_url).rglob(".zgroup") if (path.parent / "zarr.json").exists()]
    if not left:  # it leaves one in each volume that it opens before it fails at the first
        left = [Path(project.root_url) / TOMOGRAM.path / ".zgroup"]
        left[0].write_text('{"zarr_format": 2}')
    assert left
    assert listed(CopickProject.open(project.config)) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_both_versions_of_copick_read_our_output(version: str, tmp_path: Path) -> None:
    project = create_project(str(tmp_path), objects=OBJECTS)
    rng = np.random.default_rng(1)
    labels = (rng.random((20, 24, 28)) > 0.5).astype(np.uint16)
    project.write_tomogram(TOMOGRAM, rng.normal(size=labels.shape).astype(np.float32), chunk=16)
    for instance in (False, True):
        ref = SegmentationRef("TS_1", "membrane", "membrain", "ab12", 10.0, instance)
        project.write_segmentation(ref, labels * (300 if instance else 1), chunk=16)
    empty = SegmentationRef("TS_1", "membrane", "membrain", "none", 10.0)
    project.write_segmentation(empty, np.zeros_like(labels), chunk=16)
    project.write_picks(ObjectRef("TS_1", "psii", "membrain", "ab12"), Picks(np.array([[30.0, 40, 50]])))
    mesh = Mesh(np.eye(3) * 100, np.array([[0, 1, 2]], np.int32))
    project.write_meshes(ObjectRef("TS_1", "membrane", "membrain", "ab12"), {1: mesh})
    found = with_copick(version, "read", project.config)
    assert found == listed(project)
    assert {len(kind) for kind in found["runs"]["TS_1"].values()} == {1, 3}


def test_a_volume_replaces_the_empty_group_that_copick_2_makes(tmp_path: Path) -> None:
    import copick

    project = create_project(str(tmp_path), objects=OBJECTS)
    run = copick.from_file(project.config).new_run("TS_1")
    run.new_segmentation(10.0, "membrane", "1", False, user_id="other")
    assert (tmp_path / MASK.path / "zarr.json").exists()
    project.write_segmentation(MASK, copick_program.volumes(SEED)["mask"])
    assert not (tmp_path / MASK.path / "zarr.json").exists()
    found = with_copick("2", "read", project.config)["runs"]["TS_1"]["segmentations"]
    assert found == listed(project)["runs"]["TS_1"]["segmentations"]
    assert len(found) == 1


def test_foreign_files_stop_copick_and_not_our_listing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = written("2", tmp_path_factory, tmp_path / "p")
    before = listed(project)
    run = Path(project.root_url) / "ExperimentRuns" / "TS_1"
    for foreign in ("Picks/manifest.json", "Meshes/box.glb", "Segmentations/notes.txt", "VoxelSpacing10.000/a.mrc"):
        (run / foreign).write_text("{}")
    (run / "VoxelSpacing10.0_tmp").mkdir()
    (run / "VoxelSpacing10.000" / ".wbp.zarr.partial").mkdir()
    assert listed(CopickProject.open(project.config)) == before
    with pytest.raises((IndexError, ValueError)):
        with_copick("2", "read", project.config)


def test_a_worker_opens_a_project_without_copick(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    project = written("2", tmp_path_factory, tmp_path / "p")
    code = f"""
import pickle, sys
sys.modules["copick"] = sys.modules["cryoet_data_portal"] = None
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import TomogramRef
import membrain_cloud.pipeline.execution.execute_task
project = open_project({project.config!r}, checked=True)
again = pickle.loads(pickle.dumps(project))
print(again.read_density(TomogramRef("TS_1", "wbp", 10.0)).shape, again.runs(), len(again.picks("TS_1")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(20, 24, 28) ['TS_1'] 1", done.stderr[-2000:]

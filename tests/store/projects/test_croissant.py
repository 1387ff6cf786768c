"""Projects of a Croissant manifest: exported by copick, read here, and continued by copick."""

from __future__ import annotations

import csv
import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.cli import copick_plugin as copick_commands
from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.croissant import open_croissant
from membrain_cloud.store.projects.manifest import freeze
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

copick = pytest.importorskip("copick")
pytest.importorskip("mlcroissant")
pytestmark = pytest.mark.filterwarnings("ignore")

TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
MASK = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0)
INSTANCES = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0, instance=True)
MESHES = ObjectRef("TS_1", "membrane", "alice", "3")
PICKS = ObjectRef("TS_1", "psii", "alice", "3")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Make a file system project with one of everything, and let copick export it."""
    from copick.ops.croissant import export_croissant

    folder = tmp_path_factory.mktemp("published")
    project = create_project(str(folder), objects=[("membrane", False, "GO:0016020"), ("psii", True, None)])
    rng = np.random.default_rng(1)
    project.write_tomogram(TOMOGRAM, rng.normal(size=(20, 24, 28)).astype(np.float32), chunk=16)
    labels = (rng.random((20, 24, 28)) > 0.5).astype(np.uint8)
    project.write_segmentation(MASK, labels)
    project.write_segmentation(INSTANCES, labels * 3)
    vertices = np.array([[10.0, 10, 10], [60, 10, 10], [10, 60, 10], [10, 10, 60]])
    project.write_meshes(MESHES, {1: Mesh(vertices, np.array([[0, 2, 1], [0, 1, 3]], np.int32))})
    project.write_picks(PICKS, Picks(np.array([[30.0, 40, 50]])))
    export_croissant(copick.from_file(project.config), str(folder), base_url=f"file://{folder}", validate=False)
    return project


def config_of(folder: Path, source: Project, **more: object) -> str:
    content = {
        "config_type": "mlcroissant",
        "pickable_objects": [],
        "croissant_url": f"{source.root_url}/Croissant/metadata.json",
        "overlay_root": f"local://{folder / 'overlay'}",
        "overlay_fs_args": {"auto_mkdir": True},
        **more,
    }
    (folder / "overlay").mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return str(folder / "config.json")


def test_the_project_has_everything_of_its_source(source: Project, tmp_path: Path) -> None:
    project = open_project(config_of(tmp_path, source))
    assert project.runs() == ["TS_1"]
    assert project.tomograms(None, None, None) == [TOMOGRAM]
    assert set(project.segmentations("TS_1")) == {MASK, INSTANCES}
    assert project.grid(TOMOGRAM) == source.grid(TOMOGRAM)
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), source.read_density(TOMOGRAM))
    for ref in (MASK, INSTANCES):
        np.testing.assert_array_equal(project.read_labels(ref), source.read_labels(ref))
    np.testing.assert_array_equal(project.read_meshes(MESHES)[1].vertices, source.read_meshes(MESHES)[1].vertices)
    np.testing.assert_array_equal(project.read_picks(PICKS).positions, source.read_picks(PICKS).positions)
    for ref in (TOMOGRAM, MASK, PICKS):
        assert project.has(ref)
        assert project.identity(ref) == source.identity(ref)
    assert not project.has(FeaturesRef("TS_1", "wbp", 10.0, "scores"))
    assert pickle.loads(pickle.dumps(project)).tomograms(None, None, None) == [TOMOGRAM]  # noqa: S301


def test_results_go_to_the_overlay_and_copick_opens_both(source: Project, tmp_path: Path) -> None:
    project = open_project(config_of(tmp_path, source))
    before = {name: info.tag for name, info in Files(source.root_url).listing().items()}
    mine = SegmentationRef("TS_1", "membrane", "membrain", "1a2b", 10.0)
    project.write_segmentation(mine, np.ones((20, 24, 28), np.uint8))
    project.ensure_object("ribosome", is_particle=True, identifier="GO:0005840")
    assert {name: info.tag for name, info in Files(source.root_url).listing().items()} == before
    root = copick.from_file(project.config)
    assert {entry.name for entry in root.pickable_objects} == {"membrane", "psii", "ribosome"}
    run = root.get_run("TS_1")
    found = {(one.user_id, one.session_id) for one in run.get_segmentations(name="membrane", is_instance=False)}
    assert found == {("alice", "3"), ("membrain", "1a2b")}
    assert set(project.segmentations("TS_1")) == {MASK, INSTANCES, mine}


def test_a_manifest_of_it_reads_the_same_voxels(source: Project, tmp_path: Path) -> None:
    project = open_project(config_of(tmp_path, source))
    freeze(project, str(tmp_path / "all.parquet"), [TOMOGRAM], dataset="d", selection={})
    frozen = open_project(str(tmp_path / "all.parquet"))
    np.testing.assert_array_equal(frozen.read_density(TOMOGRAM), source.read_density(TOMOGRAM))


def test_volumes_may_be_anywhere_but_not_out_of_their_root(source: Project, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name, content in ((name, Files(source.root_url).read(name)) for name in Files(source.root_url).listing()):
        if name.startswith("Croissant/"):
            (moved / name).parent.mkdir(exist_ok=True)
            (moved / name).write_bytes(content)
    table = moved / "Croissant" / "tomograms.csv"
    rows = list(csv.DictReader(table.open()))

    def write(url: str) -> str:
        with table.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows([row | {"url": url} for row in rows])
        return config_of(tmp_path, source, croissant_url=str(moved / "Croissant/metadata.json"))

    project = CopickProject.open(write(f"file://{source.root_url}/{TOMOGRAM.path}"))
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), source.read_density(TOMOGRAM))
    with pytest.raises(ProjectError, match="out of its root"):
        CopickProject.open(write("../../etc/wbp.zarr"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"overlay_root": None}, "no overlay_root"),
        ({"croissant_url": None}, "croissant_url: Field required"),
        ({"croissant_url": "/nowhere/metadata.json"}, "there is no /nowhere"),
    ],
)
def test_configs_that_cannot_be_opened_are_refused(
    source: Project, tmp_path: Path, change: dict[str, str | None], why: str
) -> None:
    with pytest.raises(ProjectError, match=why) as caught:
        CopickProject.open(config_of(tmp_path, source, **change))
    assert caught.value.next_step


def test_a_remote_manifest_never_leads_to_local_files(source: Project, tmp_path: Path) -> None:
    memory = Files("memory://published/Croissant")
    for name in Files(f"{source.root_url}/Croissant").listing():
        memory.write(name, Files(f"{source.root_url}/Croissant").read(name))
    url = "memory://published/Croissant/metadata.json"
    base = {"croissant_base_url": f"file://{source.root_url}"}
    CopickProject.open(config_of(tmp_path, source, croissant_url=url, croissant_base_url="memory://published"))
    with pytest.raises(ProjectError, match="on this machine"):
        CopickProject.open(config_of(tmp_path, source, croissant_url=url))
    with pytest.raises(ProjectError, match="on this machine"):
        CopickProject.open(config_of(tmp_path, source, croissant_url=url, **base))


def test_a_run_continues_from_the_manifest(source: Project, tmp_path: Path) -> None:
    config = config_of(tmp_path, source)
    words = ["--in-process", "-i", "membrane:alice/3@10.0", "-r", "TS_1", "--set", "separate.min_voxels=1"]
    for _ in range(2):  # the second finds all of it done
        done = CliRunner().invoke(copick_commands.separate, words, env={"COPICK_CONFIG": config})
        assert done.exit_code == 0, done.output
    assert "0 done, 1 skipped" in done.output
    run = copick.from_file(config).get_run("TS_1")
    (made,) = run.get_segmentations(name="membrane", user_id="membrain", is_instance=True)
    assert made.numpy().max() >= 1


def test_the_tree_has_the_folders_of_copick(source: Project) -> None:
    settings = {"croissant_url": f"{source.root_url}/Croissant/metadata.json"}
    tree, objects = open_croissant("config.json", settings)
    assert {entry["name"] for entry in objects} == {"membrane", "psii"}
    assert tree.children("ExperimentRuns") == {"TS_1": True}
    assert tree.children("ExperimentRuns/TS_1/VoxelSpacing10.000") == {"wbp.zarr": True}
    assert tree.children(f"ExperimentRuns/{PICKS.run}/Picks") == {"alice_3_psii.json": False}
    assert tree.exists(TOMOGRAM.path)
    assert tree.find("ExperimentRuns/TS_1/Picks/bob_3_psii.json") is None
    meter = Meter()
    content = tree.metered(meter).read(PICKS.picks_path)
    assert meter.bytes_read == len(content)
    assert tree.meter is None
    with pytest.raises(FileNotFoundError):
        tree.read("ExperimentRuns/TS_1/Picks/bob_3_psii.json")

"""A copick project: copick opens what is written, and foreign or bad files do not stop the rest."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError, ProjectError
from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

MESH = ObjectRef("TS_1", "membrane", "membrain", "ab12")
PICKS = ObjectRef("TS_1", "ribosome", "membrain", "ab12")


def in_copick(project: Project) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copick's own
        import copick

        return copick.from_file(project.config)


def box_mesh(shift: float = 0.0) -> Mesh:
    import trimesh

    box = trimesh.creation.box((100.0, 60.0, 40.0))
    return Mesh(np.array(box.vertices, np.float64) + 5000.25 + shift, np.array(box.faces, np.int32))


def some_picks(count: int = 5) -> Picks:
    random = np.random.default_rng(0)
    normals = random.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Picks(
        random.uniform(0, 4000, (count, 3)),
        orientations_from_normals(normals),
        random.uniform(size=count),
        np.arange(count, dtype=np.int64),
    )


def test_copick_opens_tomograms_and_labels(project: Project, tomogram: TomogramRef, density: np.ndarray) -> None:
    labels = (density > 1).astype(np.uint8)
    for instance in (False, True):
        ref = SegmentationRef("TS_1", "membrane", "membrain", "ab12", 10.0, instance)
        project.write_segmentation(ref, labels, chunk=16)
    run = in_copick(project).get_run("TS_1")
    (theirs,) = run.get_voxel_spacing(10.0).get_tomograms("wbp")
    np.testing.assert_array_equal(theirs.numpy(), density)
    for instance in (False, True):
        (segmentation,) = run.get_segmentations(
            name="membrane", user_id="membrain", session_id="ab12", voxel_size=10.0, is_instance=instance
        )
        np.testing.assert_array_equal(segmentation.numpy(), labels)
        assert segmentation.zarr() is not None


def test_copick_opens_meshes_and_picks(project: Project) -> None:
    picks = some_picks()
    project.write_meshes(MESH, {3: box_mesh(), 12: box_mesh(7.0)})
    project.write_picks(PICKS, picks)
    run = in_copick(project).get_run("TS_1")
    (mesh,) = run.get_meshes(object_name="membrane", user_id="membrain")
    assert set(mesh.mesh.geometry) == {"membrane_3", "membrane_12"}
    (theirs,) = run.get_picks(object_name="ribosome")
    positions, transforms = theirs.numpy()
    np.testing.assert_allclose(positions, picks.positions)
    np.testing.assert_allclose(transforms[:, :3, :3], picks.orientations)
    assert [point.instance_id for point in theirs.points] == [0, 1, 2, 3, 4]
    assert theirs.trust_orientation


def test_files_of_copick_are_read(project: Project, density: np.ndarray) -> None:
    root = in_copick(project)
    run = root.new_run("TS_9")
    run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(density)
    run.new_segmentation(10.0, "membrane", "1", False, "alice").from_numpy((density > 2).astype(np.uint8))
    picks = run.new_picks("ribosome", "1", "alice")
    shifted = np.eye(4)
    shifted[:3, 3] = (1.0, 2.0, 3.0)
    picks.from_numpy(np.array([[10.0, 20.0, 30.0]]), shifted[None])
    assert project.runs() == ["TS_9"]
    (ref,) = project.tomograms(None, None, None)
    np.testing.assert_array_equal(project.read_density(ref), density)
    segmentation = project.segmentation("TS_9", "membrane:alice/1@10.0")
    np.testing.assert_array_equal(project.read_labels(segmentation), density > 2)
    assert project.grid(segmentation) == Grid(density.shape, 10.0)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        project.read_picks(ObjectRef("TS_9", "ribosome", "alice", "1")).positions, [[11, 22, 33]]
    )


def test_meshes_come_back_and_equal_ones_give_equal_bytes(project: Project) -> None:
    meshes = {12: box_mesh(7.0), 3: box_mesh()}
    project.write_meshes(MESH, meshes)
    path = Path(project.root_url) / MESH.mesh_path
    first = path.read_bytes()
    project.write_meshes(MESH, dict(reversed(meshes.items())))
    assert path.read_bytes() == first
    found = project.read_meshes(MESH)
    assert list(found) == [3, 12]
    for number, mesh in found.items():
        assert mesh.vertices.dtype == np.float64
        assert mesh.faces.dtype == np.int32
        np.testing.assert_allclose(mesh.vertices, meshes[number].vertices, atol=1e-3)
        np.testing.assert_array_equal(mesh.faces, meshes[number].faces)


def test_no_meshes_and_no_picks_can_be_written(project: Project) -> None:
    project.write_meshes(MESH, {})
    assert project.read_meshes(MESH) == {}
    project.write_picks(PICKS, Picks(np.zeros((0, 3))))
    assert len(project.read_picks(PICKS)) == 0
    (theirs,) = in_copick(project).get_run("TS_1").get_picks(object_name="ribosome")
    assert theirs.points == []


def test_the_transform_of_a_mesh_is_applied(project: Project) -> None:
    import trimesh

    scene = trimesh.Scene()
    shift = trimesh.transformations.translation_matrix([100.0, 0.0, 0.0])
    scene.add_geometry(trimesh.creation.icosphere(1, 10.0), geom_name="by hand", transform=shift)
    path = Path(project.root_url) / MESH.mesh_path
    path.parent.mkdir(parents=True)
    path.write_bytes(scene.export(file_type="glb"))
    (mesh,) = project.read_meshes(MESH).values()
    np.testing.assert_allclose(mesh.vertices.mean(0), [100.0, 0.0, 0.0], atol=1e-3)


def test_picks_come_back(project: Project) -> None:
    picks = some_picks(3000)
    project.write_picks(PICKS, picks)
    found = project.read_picks(PICKS)
    np.testing.assert_array_equal(found.positions, picks.positions)
    np.testing.assert_array_equal(found.orientations, picks.orientations)
    np.testing.assert_array_equal(found.scores, picks.scores)
    np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
    project.write_picks(PICKS, Picks(picks.positions))
    assert project.read_picks(PICKS).orientations is None


def test_damaged_and_foreign_files_do_not_stop_the_listing(project: Project, tomogram: TomogramRef) -> None:
    project.write_picks(PICKS, some_picks())
    project.write_meshes(MESH, {1: box_mesh()})
    run = Path(project.root_url) / "ExperimentRuns/TS_1"
    (run / "Picks/manifest.json").write_text("{}")
    (run / "Picks/alice_1_ribosome.json").write_text('{"points": [')
    (run / "Picks/alice_2_ribosome.json").write_text('{"points": [{"score": 1}]}')
    (run / "Meshes/alice_1_membrane.glb").write_bytes(b"glTF")
    (run / "Meshes/notes.txt").write_text("x")
    for name in (
        "VoxelSpacing10.0_tmp",
        "VoxelSpacingx",
        "VoxelSpacing10.000/wbp_dino_features.zarr",
        "Segmentations/x",
    ):
        (run / name).mkdir(parents=True)
    (Path(project.root_url) / "ExperimentRuns/notes.txt").write_text("x")
    assert project.runs() == ["TS_1"]
    assert project.all_tomograms("TS_1") == [tomogram]
    assert project.segmentations("TS_1") == []
    assert PICKS in project.picks("TS_1")
    assert MESH in project.meshes("TS_1")
    for session in ("1", "2"):
        with pytest.raises(ProjectError, match=f"alice/{session} is damaged"):
            project.read_picks(ObjectRef("TS_1", "ribosome", "alice", session))
    with pytest.raises(ProjectError, match="damaged"):
        project.read_meshes(ObjectRef("TS_1", "membrane", "alice", "1"))
    with pytest.raises(ProjectError, match="there is no mesh"):
        project.read_meshes(ObjectRef("TS_1", "membrane", "alice", "7"))


@pytest.mark.parametrize("keep", [0, 10, 300, -4])
def test_a_damaged_mesh_is_named(project: Project, keep: int) -> None:
    project.write_meshes(MESH, {1: box_mesh()})
    path = Path(project.root_url) / MESH.mesh_path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ProjectError, match="damaged"):
        project.read_meshes(MESH)


def test_one_tomogram_per_run_is_chosen(project: Project, density: np.ndarray) -> None:
    for run, kind, spacing in (
        ("A", "raw", 10.0),
        ("B", "raw", 10.0),
        ("B", "wbp", 7.84),
        ("B", "wbp", 13.48),
        ("C", "wbp", 10.0),
        ("C", "wbp-denoised", 10.0),
    ):
        project.write_tomogram(TomogramRef(run, kind, spacing), density[:8, :8, :8])
    keys = [ref.key for ref in project.tomograms(None, None, None)]
    assert keys == ["A/raw@10.000", "B/wbp@7.840", "C/wbp-denoised@10.000"]
    assert [ref.key for ref in project.tomograms(["C", "B"], "wbp", None)] == ["B/wbp@7.840", "C/wbp@10.000"]
    assert [ref.key for ref in project.tomograms(None, None, 13.48)] == ["B/wbp@13.480"]
    with pytest.raises(ProjectError, match="of type sirt") as caught:
        project.tomograms(None, "sirt", None)
    assert "wbp@7.84" in caught.value.next_step
    with pytest.raises(ProjectError, match="no run 'CC'") as caught:
        project.tomograms(["A", "CC"], None, None)
    assert "C" in caught.value.next_step


def test_a_run_with_only_a_segmentation_is_planned(project: Project) -> None:
    ref = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0, instance=True)
    project.write_segmentation(ref, np.ones((8, 8, 8), np.uint16))
    assert project.runs() == ["TS_1"]
    assert project.tomograms(["TS_1"], None, None) == []
    assert project.segmentation("TS_1", "membrane:alice/3@10.0?instance=true") == ref
    assert project.segmentation("TS_1", "membrane:alice/3?instance=true") == ref
    assert project.grid(ref) == Grid((8, 8, 8), 10.0)
    for uri in ("membrane:alice/3@10.0", "membrane:alice/3@9.0?instance=true"):
        with pytest.raises(ProjectError) as caught:
            project.segmentation("TS_1", uri)
        assert ref.uri in caught.value.next_step


def test_bad_run_names_are_left_out_and_reported(project: Project, tomogram: TomogramRef) -> None:
    runs = Path(project.root_url) / "ExperimentRuns"
    for name in ("my run", "a..b", ".hidden"):
        shutil.copytree(runs / "TS_1", runs / name)
    assert project.runs() == ["TS_1"]
    assert set(project.bad_runs()) == {"my run", "a..b"}
    assert project.tomograms(None, None, None) == [tomogram]
    for name in ("my run", "../TS_1", "TS_1/../TS_1"):
        with pytest.raises(BadNameError):
            project.tomograms([name], None, None)
        with pytest.raises(BadNameError):
            project.segmentation(name, "membrane:alice/3@10.0")


def test_bad_names_in_the_config_are_reported(project: Project) -> None:
    settings = json.loads(Path(project.config).read_text())
    Path(project.config).write_text(json.dumps(settings | {"runs": ["../../etc", "TS_1"]}))
    assert set(CopickProject.open(project.config).bad_runs()) == {"../../etc"}


def test_objects_by_uri(project: Project) -> None:
    assert not project.has(PICKS)
    project.write_picks(PICKS, some_picks())
    assert project.has(PICKS)
    assert project.object("TS_1", "ribosome:membrain/ab12") == PICKS
    with pytest.raises(ProjectError, match="there is no mesh") as caught:
        project.object("TS_1", "ribosome:membrain/zz")
    assert PICKS.uri in caught.value.next_step
    project.remove(PICKS)
    project.remove(PICKS)
    assert not project.has(PICKS)


def test_identity_changes_with_the_data_and_not_with_the_pyramid(project: Project, density: np.ndarray) -> None:
    ref = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0)
    labels = (density > 1).astype(np.uint8)
    project.write_segmentation(ref, labels, chunk=16)
    first = project.identity(ref)
    assert first == CopickProject.open(project.config).identity(ref)
    project.finish_labels(ref)
    assert project.identity(ref) == first
    project.write_segmentation(ref, labels, chunk=16)
    second = project.identity(ref)
    assert second != first
    (Path(project.root_url) / ref.path / "0/0/0/0").unlink()
    assert project.identity(ref) not in (first, second)
    with pytest.raises(ProjectError):
        project.identity(PICKS)
    project.write_picks(PICKS, some_picks())
    first = project.identity(PICKS)
    project.write_picks(PICKS, some_picks(4))
    assert project.identity(PICKS) != first


def test_objects_are_added_to_the_config(project: Project) -> None:
    project.ensure_object("PSII", is_particle=True, identifier="GO:0009523")
    project.ensure_object("PSII", is_particle=True, identifier=None)
    root = in_copick(project)
    assert [(o.name, o.is_particle) for o in root.pickable_objects] == [
        ("membrane", False),
        ("ribosome", True),
        ("PSII", True),
    ]
    assert root.get_object("PSII").identifier == "GO:0009523"
    assert len({o.label for o in root.pickable_objects}) == 3
    with pytest.raises(ProjectError, match="is a segmented object"):
        project.ensure_object("membrane", is_particle=True, identifier=None)
    with pytest.raises(BadNameError):
        project.ensure_object("a/b", is_particle=True, identifier=None)


def test_a_project_pickles_as_its_config(project: Project, tomogram: TomogramRef) -> None:
    again = pickle.loads(pickle.dumps(project))  # noqa: S301
    assert again.config == project.config
    assert again.tomograms(None, None, None) == [tomogram]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such config"),
        ("{", "not JSON"),
        ("[]", "not a copick config"),
        ('{"overlay_root": "/x"}', "pickable_objects: Field required"),
        ('{"pickable_objects": []}', "overlay_root: Field required"),
        (
            '{"overlay_root": "/x", "pickable_objects": [{"name": "a_b", "is_particle": true}]}',
            "pickable_objects.0.name",
        ),
        ('{"overlay_root": "/x", "pickable_objects": [{"name": "a", "is_particle": true, "label": 0}]}', "background"),
        ('{"overlay_root": "/x", "pickable_objects": [], "user_id": "a_b"}', "user_id"),
        ('{"overlay_root": "/x", "pickable_objects": [], "config_type": "other"}', "copick sync"),
        ('{"overlay_root": "/nowhere/at/all", "pickable_objects": []}', "does not exist"),
        (
            '{"overlay_root": "/x", "pickable_objects": [], "config_type": "mlcroissant"}',
            "croissant_url: Field required",
        ),
        ('{"overlay_root": "/x", "pickable_objects": [], "config_type": "cryoet_data_portal"}', "portal select"),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path: Path, text: str | None, why: str) -> None:
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text)
    with pytest.raises(ProjectError, match=why) as caught:
        CopickProject.open(str(config))
    assert caught.value.next_step


def test_the_overlay_hides_the_static_root(tmp_path: Path, density: np.ndarray) -> None:
    base = create_project(str(tmp_path / "static"), objects=[("membrane", False, None)])
    for run in ("A", "B"):
        base.write_tomogram(TomogramRef(run, "wbp", 10.0), density, chunk=16)
    config = tmp_path / "config.json"
    roots = {"overlay_root": str(tmp_path / "overlay"), "static_root": base.root_url}
    config.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": [], **roots}))
    project = CopickProject.open(str(config))
    assert project.runs() == ["A", "B"]
    project.write_tomogram(TomogramRef("A", "wbp", 10.0), -density, chunk=16)
    np.testing.assert_array_equal(project.read_density(TomogramRef("A", "wbp", 10.0)), -density)
    np.testing.assert_array_equal(project.read_density(TomogramRef("B", "wbp", 10.0)), density)
    np.testing.assert_array_equal(base.read_density(TomogramRef("A", "wbp", 10.0)), density)
    project.write_picks(ObjectRef("B", "ribosome", "membrain", "1"), some_picks())
    assert (tmp_path / "overlay/ExperimentRuns/B/Picks").is_dir()
    assert project.receipts.names() == set()
    project.receipts.write("x", {})
    assert (tmp_path / "overlay/membrain-cloud/receipts/x.json").is_file()


def test_a_project_opens_from_any_folder(
    project: Project, tomogram: TomogramRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(project.root_url))
    assert CopickProject.open("config.json").tomograms(None, None, None) == [tomogram]
    monkeypatch.chdir("/")
    assert CopickProject.open(project.config).tomograms(None, None, None) == [tomogram]

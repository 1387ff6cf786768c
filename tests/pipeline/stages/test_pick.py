"""The stages `mesh` and `pick` on a small project: surfaces, sides, several classes of particles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.errors import ModelError
from membrain_cloud.geometry import Box, Mesh, iterate_chunks
from membrain_cloud.mesh.shell_sides import membrane_sides
from membrain_cloud.networks.picking.picker import load_picker, save_picker
from membrain_cloud.networks.picking.subvolume_net import SubvolumeNet
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.maintenance.verify import verify
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import PickSettings, load_settings
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SHAPE, MIDDLE, RADIUS = (48, 48, 48), 240.0, 130.0
GIVEN = "separate.segmentation=membrane:alice/1@10.0?instance=true"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One vesicle with a bright spot on it, and a single voxel beside it, as a second membrane."""
    made = create_project(str(tmp_path_factory.mktemp("p") / "project"), objects=[("membrane", False, None)])
    z, y, x = np.indices(SHAPE, dtype=np.float32)
    radius = np.sqrt((z - 24) ** 2 + (y - 24) ** 2 + (x - 24) ** 2)
    labels = (np.abs(radius - 13) <= 2.5).astype(np.uint8)
    labels[1, 1, 1] = 2
    spot = np.exp(-0.5 * ((z - 24) ** 2 + (y - 24) ** 2 + (x - 39) ** 2) / 3.0**2)
    made.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), spot.astype(np.float32))
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, True), labels)
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "2", 10.0), np.zeros(SHAPE, np.uint8))
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "3", 10.0), np.ones(SHAPE, np.uint8))
    voxel = np.zeros(SHAPE, np.uint8)
    voxel[24, 24, 24] = 1
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "4", 10.0), voxel)
    return made


def run_stages(project: Project, stages: list[str], *overrides: str) -> tuple[dict[str, ObjectRef], list[str]]:
    settings = load_settings(None, list(overrides))
    made = plan(project, settings, STAGES, stages=stages)
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    failed = [outcome.line() for outcome in outcomes if outcome.state not in ("done", "skipped")]
    refs = {
        "mesh": ObjectRef("TS_1", "membrane", "membrain", made.sessions.get("mesh", "x")),
        "pick": ObjectRef("TS_1", "membrane-protein", "membrain", made.sessions.get("pick", "x")),
    }
    return refs, failed


def meshed(project: Project, *overrides: str) -> dict[int, Mesh]:
    refs, failed = run_stages(project, ["mesh"], GIVEN, *overrides)
    assert failed == []
    return project.read_meshes(refs["mesh"])


def heights(mesh: Mesh) -> np.ndarray:
    return np.linalg.norm(mesh.vertices - MIDDLE, axis=1)


def outward(mesh: Mesh) -> float:
    """Return the share of vertices whose normals point away from the vesicle's middle."""
    return float((((mesh.vertices - MIDDLE) * mesh.vertex_normals()).sum(axis=1) > 0).mean())


def test_a_shell_has_both_sides_and_a_voxel_has_no_mesh(project: Project) -> None:
    meshes = meshed(project)
    assert list(meshes) == [1]
    sides = membrane_sides(meshes[1], reach_angstrom=150.0)
    assert set(np.unique(sides.side)) == {1, 2}


@pytest.mark.parametrize(
    ("overrides", "height", "outer"),
    [
        (["mesh.surface=midsurface"], RADIUS, 1.0),
        (["mesh.surface=midsurface", "mesh.seed=240,240,240"], RADIUS, 0.0),
        (["mesh.surface=side"], RADIUS + 25, 1.0),
        (["mesh.surface=side", "mesh.seed=240,240,240"], RADIUS - 25, 0.0),
        (["mesh.surface=side", "mesh.seed=5,240,240"], RADIUS + 25, 1.0),
    ],
)
def test_one_side_and_the_midsurface(project: Project, overrides: list[str], height: float, outer: float) -> None:
    mesh = meshed(project, *overrides)[1]
    assert heights(mesh).mean() == pytest.approx(height, abs=3.0)
    assert np.abs(heights(mesh) - height).max() < 9.0
    assert outward(mesh) == pytest.approx(outer, abs=0.01)


@pytest.mark.parametrize(("session", "membranes"), [("2", 0), ("4", 0), ("3", 1)])
def test_an_empty_a_tiny_and_a_full_segmentation(project: Project, session: str, membranes: int) -> None:
    stages = ["separate", "mesh", "pick", "measure"]
    refs, failed = run_stages(project, stages, f"separate.segmentation=membrane:alice/{session}@10.0")
    assert failed == []
    assert len(project.read_meshes(refs["mesh"])) == membranes
    picks = project.read_picks(refs["pick"])
    assert np.isfinite(picks.positions).all()
    if not membranes:
        assert len(picks) == 0


def test_a_region_by_meshes(project: Project) -> None:
    import trimesh

    ball = trimesh.creation.icosphere(3, radius=145.0)
    half = Mesh(np.array(ball.vertices) + np.array([240.0, 240.0, 160.0]), np.array(ball.faces, np.int32))
    project.ensure_object("cell", is_particle=False, identifier=None)
    project.write_meshes(ObjectRef("TS_1", "cell", "alice", "1"), {1: half})
    project.write_meshes(ObjectRef("TS_1", "cell", "alice", "2"), {1: Mesh(half.vertices, half.faces[1:])})
    given = ["separate.segmentation=membrane:alice/3@10.0"]
    settings = load_settings(None, [*given, "separate.region=cell:alice/1"])
    made = plan(project, settings, STAGES, stages=["separate"])
    execute_plan(project, settings, made, InProcessRunner(), STAGES)
    output = made.tasks[-1].output
    assert isinstance(output, SegmentationRef)
    mask = project.read_labels(output) > 0
    places = np.moveaxis(np.indices(SHAPE)[::-1], 0, -1) * 10.0
    away = np.linalg.norm(places - [240.0, 240.0, 160.0], axis=-1)
    assert mask[away < 140].all()
    assert not mask[away > 146].any()
    _, failed = run_stages(project, ["separate"], *given, "separate.region=cell:alice/2")
    assert "is not closed" in failed[0]
    _, failed = run_stages(project, ["separate"], *given, "separate.region=cell:alice/9")
    assert failed


def two_classes(folder: Path) -> str:
    """Write a picker that finds its first class everywhere and its second nowhere."""
    torch.manual_seed(0)
    network = SubvolumeNet(outputs=2).eval()
    with torch.no_grad():
        network.mlp1.weight.zero_()
        network.mlp1.bias.copy_(torch.tensor([2.0, 10.0]))
    made = SubvolumePicker(network, 12, 14.0, 15.0, classes=("psii", "b6f"))
    save_picker(made, folder / "kinds.safetensors")
    return str(folder / "kinds.safetensors")


def test_each_class_has_its_own_picks_beside_all_picks(project: Project, tmp_path: Path) -> None:
    refs, failed = run_stages(project, ["mesh", "pick"], GIVEN, f"pick.model={two_classes(tmp_path)}")
    assert failed == []
    all_picks = project.read_picks(refs["pick"])
    classes = [
        project.read_picks(ObjectRef("TS_1", name, "membrain", refs["pick"].session)) for name in ("psii", "b6f")
    ]
    assert len(all_picks) == len(classes[0]) > 0
    assert len(classes[1]) == 0
    np.testing.assert_array_equal(all_picks.positions, classes[0].positions)
    assert heights(Mesh(all_picks.positions, np.zeros((0, 3), np.int32))).mean() == pytest.approx(RADIUS, abs=12.0)
    project = CopickProject.open(project.config)
    tables = open_tables(project)
    lost = ObjectRef("TS_1", "b6f", "membrain", refs["pick"].session)

    def wrong() -> list[str]:
        return [f.output for f in verify(project, tables, "membrain") if f.state != "ok" and lost.session in f.output]

    assert wrong() == []  # neither foreign nor changed: the receipt of all picks covers each class
    project.remove(lost)
    assert len(wrong()) == 1
    assert {"psii", "b6f"} <= {entry["name"] for entry in project.settings["pickable_objects"]}


def test_every_chunk_of_labels_is_read_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Box | None] = []
    original = CopickProject.read_labels

    def counted(self: Project, ref: SegmentationRef, box: Box | None = None) -> np.ndarray:
        read.append(box)
        return original(self, ref, box)

    monkeypatch.setattr(CopickProject, "read_labels", counted)
    assert meshed(project, "mesh.smoothing_angstrom=11")
    chunk = project.stored_chunk(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, True))
    assert read == list(iterate_chunks(SHAPE, chunk))


def test_each_class_is_measured_by_itself(project: Project, tmp_path: Path) -> None:
    given = [GIVEN, f"pick.model={two_classes(tmp_path)}", "pick.threshold=6.9", f"output.tables={tmp_path / 't'}"]
    given.append("measure.simulations=0")
    _, failed = run_stages(project, ["mesh", "pick", "measure"], *given)
    assert failed == []
    tables = open_tables(project, load_settings(None, given).output.tables)
    classes = tables.read("membrane_particles").to_pylist()
    (membrane,) = tables.read("membranes").to_pylist()
    assert [row["object_name"] for row in classes] == ["b6f", "psii"]
    assert [row["n_particles"] for row in classes] == [0, membrane["n_particles"]]
    assert classes[1]["particles_per_um2"] == pytest.approx(membrane["particles_per_um2"])
    assert classes[1]["n_particles_without_edges"] == membrane["n_particles_without_edges"]
    assert {row["object_name"] for row in tables.read("particles").to_pylist()} == {"psii"}


def test_a_mesh_that_is_not_finite_fails_alone(project: Project, tmp_path: Path) -> None:
    model = f"pick.model={two_classes(tmp_path)}"
    refs, failed = run_stages(project, ["mesh", "pick"], GIVEN, model, "mesh.smoothing_angstrom=12")
    assert failed == []
    before = project.read_picks(refs["pick"])
    (good,) = project.read_meshes(refs["mesh"]).values()
    broken = Mesh(np.full((4, 3), np.nan), np.array([[0, 1, 2], [1, 2, 3]], np.int32))
    for meshes, counts in (({1: good, 5: broken}, True), ({5: broken}, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CopickProject, "read_meshes", lambda self, ref, meshes=meshes: meshes)
            refs, failed = run_stages(
                project, ["mesh", "pick"], GIVEN, model, "mesh.smoothing_angstrom=12", f"pick.threshold={6 + counts}.5"
            )
        if not counts:
            assert "none of its 1 meshes" in failed[0]
            assert "not finite" in failed[0]
            continue
        assert failed == []
        np.testing.assert_array_equal(project.read_picks(refs["pick"]).positions, before.positions)
        (errors,) = (
            receipt["counts"]["membranes_failed"]
            for receipt in map(project.receipts.read, project.receipts.names())
            if receipt is not None and "membranes_failed" in receipt.get("counts", {})
        )
        assert errors == {"5": "the mesh has vertices that are not finite"}


def test_a_segmentation_model_is_refused_as_a_picker(project: Project) -> None:
    settings = load_settings(None, [GIVEN, "pick.model=membrain-cloud-small"])
    with pytest.raises(ModelError, match="is for segmentation, not for picking"):
        plan(project, settings, STAGES, stages=["mesh", "pick"])


def test_settings_left_open_come_from_the_pickers_file() -> None:
    built_in = load_picker("membrain-cloud-picker")
    stored = {"pick.bandwidth_angstrom": 44.0, "pick.threshold": 6.5}
    trained = replace(built_in, notes={"settings": stored})

    def both(settings: PickSettings, network: object) -> tuple[float, float]:
        clustering = make_clustering(settings, network)  # type: ignore[arg-type]
        return clustering.bandwidth_angstrom, clustering.score_threshold

    assert both(PickSettings(), trained) == (44.0, 6.5)
    assert both(PickSettings(bandwidth_angstrom=80.0), trained) == (80.0, 6.5)
    assert both(PickSettings(threshold=5.0), trained) == (44.0, 5.0)
    assert both(PickSettings(), built_in) == (55.0, 8.0)
    assert both(PickSettings(), replace(built_in, notes={})) == both(PickSettings(), None) == (70.0, 7.0)
    assert load_settings(None, ["pick.bandwidth_angstrom=null"]).pick.bandwidth_angstrom is None


@pytest.mark.parametrize("stored", [{"pick.bandwidth_angstrom": -3}, {"pick.threshold": "often"}, ["70"]])
def test_a_picker_that_stores_invalid_settings_is_refused(stored: object) -> None:
    network = replace(load_picker("membrain-cloud-picker"), notes={"settings": stored})
    with pytest.raises(ModelError, match="stores invalid settings"):
        make_clustering(PickSettings(), network)

"""The stage `measure` on a simulated tomogram: classes, density, a lamella, and a membrane that cannot be measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project, true_picks_at_surface
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.base import RunContext
from membrain_cloud.pipeline.stages.measure import MEASURE
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.statistics.schema.tables import TABLES
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SHAPE = (48, 64, 64)
GIVEN = ["separate.segmentation=membrane:truth/0@10.0?instance=true", "measure.simulations=9"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    phantom = PhantomSettings(shape=SHAPE, membranes=2, void_angstrom=(0.0, 0.0))
    folder = str(tmp_path_factory.mktemp("measured") / "project")
    made = simulate_project(
        folder, [SimulatedTomogram("TS_1", 5, phantom)], particle="psii", processes=1, report=lambda _: None
    )
    truth = made.read_picks(true_picks_at_surface("TS_1", "psii"))
    assert truth.orientations is not None
    half = len(truth) // 2
    for name, numbers in (("psii", slice(0, half)), ("cytb6f", slice(half, None))):
        made.ensure_object(name, is_particle=True, identifier=None)
        made.write_picks(
            ObjectRef("TS_1", name, "alice", "1"), Picks(truth.positions[numbers], truth.orientations[numbers])
        )
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:40] = 1
    made.ensure_object("lamella", is_particle=False, identifier=None)
    made.write_segmentation(SegmentationRef("TS_1", "lamella", "alice", "1", 10.0, False), mask)
    return made


def measured(project: Project, *more: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Rows of all tables, and the counts of the receipt."""
    settings = load_settings(None, [*GIVEN, *more])
    made = plan(project, settings, STAGES, stages=["mesh", "measure"])
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    assert [o.line() + o.traceback for o in outcomes if o.state not in ("done", "skipped")] == []
    tables = open_tables(project, settings.output.tables)
    counts = next((dict(o.counts) for o in outcomes if o.stage == "measure"), {})
    return {name: tables.read(name).to_pylist() for name in TABLES}, counts


def test_classes_density_and_lamella(project: Project) -> None:
    rows, _ = measured(project, "measure.picks=psii:alice/1, cytb6f:alice/1", "measure.lamella=lamella:alice/1@10.0")
    (tomogram,) = rows["tomograms"]
    assert tomogram["picks_uri"] == "psii:alice/1, cytb6f:alice/1"
    assert tomogram["density_uri"] == "TS_1/wbp@10.000"
    assert tomogram["lamella_uri"] == "lamella:alice/1@10.000"
    assert (tomogram["n_membranes"], tomogram["n_failed_membranes"]) == (len(rows["membranes"]), 0)
    assert {row["object_name"] for row in rows["particles"]} == {"psii", "cytb6f"}
    for row in rows["particles"]:
        upper, lower = 395.0 - row["z_angstrom"], row["z_angstrom"] - 95.0
        assert row["distance_to_lamella_nm"] == pytest.approx(min(upper, lower) / 10.0, abs=1e-6)
    assert all(row["touches_lamella"] is not None for row in rows["membranes"])
    # the phantom's leaflets are 32 to 44 Å apart, before contrast transfer
    thickness = [row["bilayer_thickness_nm"] for row in rows["membranes"] if row["bilayer_thickness_nm"] is not None]
    assert thickness
    assert all(2.5 < value < 5.5 for value in thickness)
    assert rows["density_profiles"]
    pairs = {(row["object_name"], row["target_object_name"]) for row in rows["binned_neighbors"]}
    assert {("psii", "cytb6f"), ("cytb6f", "psii")} <= pairs
    properties = {row["property"] for row in rows["membrane_histograms"]}
    assert {"distance_to_psii_nm", "distance_to_cytb6f_nm", "distance_to_next_membrane_nm"} <= properties


def test_a_membrane_that_cannot_be_measured_does_not_fail_its_tomogram(project: Project) -> None:
    settings = load_settings(None, GIVEN)
    made = plan(project, settings, STAGES, stages=["mesh"])
    execute_plan(project, settings, made, InProcessRunner(), STAGES)
    ref = MESH.output(run_context(project, made.sessions))
    meshes = project.read_meshes(ref)
    mesh = next(iter(meshes.values()))
    bad = Mesh(mesh.vertices.copy(), mesh.faces)
    bad.vertices[::7] = np.nan
    project.write_meshes(ref, {**meshes, 99: bad})
    try:
        rows, counts = measured(project, "measure.picks=psii:alice/1", "measure.simulations=3")
    finally:
        project.write_meshes(ref, meshes)
    by_number = {row["membrane_id"]: row for row in rows["membranes"]}
    assert by_number[99]["error"].endswith("vertices in use are not finite")
    assert by_number[99]["one_sided_area_nm2"] is None
    others = [row for number, row in by_number.items() if number != 99]
    assert others
    assert all(row["error"] is None and row["one_sided_area_nm2"] > 0 for row in others)
    assert rows["tomograms"][0]["n_failed_membranes"] == 1
    assert counts["membranes_failed"] == 1


def run_context(project: Project, sessions: Any) -> RunContext:
    return RunContext(project, "TS_1", None, load_settings(None, GIVEN), sessions)


def test_given_picks_replace_the_stage_pick() -> None:
    given, ours = load_settings(None, ["measure.picks=psii:alice/1"]), load_settings(None, [])
    assert (MEASURE.after(given), MEASURE.after(ours)) == (("mesh",), ("mesh", "pick"))
    assert MEASURE.digest_settings(given)["given"] == "psii:alice/1"


def test_without_a_bilayer_no_tomogram_is_read(project: Project) -> None:
    settings = load_settings(None, [*GIVEN, "measure.picks=none", "measure.bilayer=no"])
    made = plan(project, settings, STAGES, stages=["measure"])
    assert all("density" not in task.inputs for task in made.tasks)


def test_a_class_without_orientations_does_not_remove_the_others() -> None:
    turned = Picks(np.zeros((2, 3)), np.tile(np.eye(3), (2, 1, 1)), in_plane=np.array([True, False]))
    both = Picks.concatenate([turned, Picks(np.ones((1, 3)))])
    assert both.orientations is not None
    assert np.isnan(both.orientations[2]).all()
    assert both.in_plane is not None
    assert both.in_plane.tolist() == [True, False, True]
    assert Picks.concatenate([replace(turned, orientations=None, in_plane=None)]).orientations is None

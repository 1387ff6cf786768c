"""The stage `context` on a simulated tomogram: rows of lists of particles beside each other, refusals, digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.maintenance.clean import find_orphans
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project, true_picks_at_surface
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.settings.context import ContextSettings
from membrain_cloud.pipeline.stages.context import CONTEXT
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.store.tables.check import check_tables
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.store.projects.project import Project

SHAPE = (48, 64, 64)
GIVEN = ["separate.segmentation=membrane:truth/0@10.0?instance=true"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    phantom = PhantomSettings(shape=SHAPE, membranes=2, void_angstrom=(0.0, 0.0))
    folder = str(tmp_path_factory.mktemp("context") / "project")
    made = simulate_project(
        folder, [SimulatedTomogram("TS_1", 5, phantom)], particle="psii", processes=1, report=lambda _: None
    )
    truth = made.read_picks(true_picks_at_surface("TS_1", "psii"))
    assert truth.orientations is not None
    off = truth.positions + 80.0 * truth.orientations[:, :, 2]
    for name, picks in (
        ("ribosome", Picks(off, truth.orientations)),
        ("soluble", Picks(np.random.default_rng(0).uniform(0.0, 470.0, (20, 3)))),
        ("away", Picks(off + 1e5)),
    ):
        made.ensure_object(name, is_particle=True, identifier=None)
        made.write_picks(ObjectRef("TS_1", name, "alice", "1"), picks)
    made.write_picks(ObjectRef("TS_1", "soluble", "bob", "1"), Picks(np.zeros((0, 3))))
    return made


def run(project: Project, picks: str, *more: str, stages: tuple[str, ...] = ("mesh", "context")) -> list[Outcome]:
    settings = load_settings(None, [*GIVEN, f"context.picks={picks}", *more])
    made = plan(project, settings, STAGES, stages=stages)
    return list(execute_plan(project, settings, made, InProcessRunner(), STAGES))


def rows(project: Project) -> list[dict[str, Any]]:
    return list(open_tables(project).read("particle_context").to_pylist())


def test_lists_of_particles_lie_beside_each_other(project: Project) -> None:
    (done,) = (outcome for outcome in run(project, "ribosome:alice/1") if outcome.stage == "context")
    assert done.state == "done"
    run(project, "soluble:alice/1")
    run(project, "soluble:bob/1")
    found = rows(project)
    ours = [row for row in found if row["picks"] == "ribosome:alice/1"]
    assert len(ours) == done.counts["particles"] >= 3
    assert {row["segmentation"] for row in ours} == {"membrane:truth/0@10.000?instance=true"}
    assert {row["run_name"] for row in ours} == {"TS_1"}
    measured = [row for row in ours if row["status"] == "measured"]
    assert len(measured) == done.counts["measured"]
    distances = np.array([row["distance_nm"] for row in measured])
    assert abs(np.median(distances) - 8.0) < 0.5
    assert np.median([row["angle_to_normal_degrees"] for row in measured]) < 20.0
    thickness = [row["bilayer_thickness_nm"] for row in measured if row["bilayer_thickness_nm"] is not None]
    assert thickness
    assert all(2.0 < value < 6.0 for value in thickness)
    assert len([row for row in found if row["picks"] == "soluble:alice/1"]) == 20
    tables = open_tables(project)
    assert check_tables(tables) == []
    assert [o for o in find_orphans(project, tables, "membrain", hours=0.0) if o.kind == "table part"] == []
    # a second time nothing is done; changed particles are described again, in place of the earlier rows
    assert {outcome.state for outcome in run(project, "soluble:alice/1")} == {"skipped"}
    project.write_picks(ObjectRef("TS_1", "soluble", "alice", "1"), Picks(np.full((3, 3), 200.0)))
    assert [o.state for o in run(project, "soluble:alice/1") if o.stage == "context"] == ["done"]
    assert len([row for row in rows(project) if row["picks"] == "soluble:alice/1"]) == 3


def test_without_the_bilayer_and_with_given_meshes(project: Project) -> None:
    run(project, "ribosome:alice/1")
    (meshes,) = (ref for ref in project.meshes("TS_1") if ref.name == "membrane" and ref.user == "membrain")
    before = [row for row in rows(project) if row["picks"] == "ribosome:alice/1"]
    outcomes = run(
        project, "ribosome:alice/1", f"context.meshes={meshes.uri}", "context.bilayer=no", stages=("context",)
    )
    assert [outcome.state for outcome in outcomes] == ["done"]
    after = [row for row in rows(project) if row["picks"] == "ribosome:alice/1"]
    assert {row["bilayer_thickness_nm"] for row in after} == {None}
    assert {row["segmentation"] for row in after} == {None}
    for one, other in zip(before, after, strict=True):
        assert one["distance_nm"] == other["distance_nm"]
        assert one["side"] == other["side"]


def test_particles_that_all_lie_outside_are_refused(project: Project) -> None:
    (failed,) = (outcome for outcome in run(project, "away:alice/1") if outcome.stage == "context")
    assert failed.state == "failed"
    assert "lie outside of the tomogram of 64 x 64 x 48 nm" in failed.message
    assert "pixel size" in failed.next_step
    assert not [row for row in rows(project) if row["picks"] == "away:alice/1"]


def test_absent_picks_are_refused_with_those_that_exist(project: Project) -> None:
    (failed,) = (outcome for outcome in run(project, "ribosome:carol/1") if outcome.stage == "context")
    assert failed.state == "failed"
    assert "ribosome:alice/1" in failed.next_step


def test_settings_that_change_a_result_change_the_digest() -> None:
    plain = load_settings(None, ["context.picks=a:b/1"])
    assert CONTEXT.is_replaced(load_settings(None, []))
    assert not CONTEXT.is_replaced(plain)
    assert CONTEXT.after(plain) == ("mesh",)
    assert CONTEXT.after(load_settings(None, ["context.picks=a:b/1", "context.meshes=m:b/1"])) == ()
    for change in ("context.reach_nm=50", "context.bilayer=no", "context.picks=a:b/2", "context.meshes=m:b/1"):
        changed = load_settings(None, ["context.picks=a:b/1", change])
        assert CONTEXT.digest_settings(changed) != CONTEXT.digest_settings(plain)
    assert CONTEXT.rows_name(plain) == "a_b_1"
    with pytest.raises(UsageError, match="expected one copick URI"):
        load_settings(None, ["context.picks=a:b/1,c:d/1"])
    assert ContextSettings().reach_nm == 100.0

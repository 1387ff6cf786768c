"""The stage `organelle`: organelles of any tool in copick, rows by membrane, changes that are assigned again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud import tables
from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.settings.organelle import OrganelleSettings
from membrain_cloud.pipeline.stages.organelle import ORGANELLE
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.tables.check import check_tables
from membrain_cloud.store.tables.open import open_tables
from membrain_cloud.tables.organelles import organelles_of_membranes

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.store.projects.project import Project

GIVEN = ["separate.segmentation=membrane:alice/1@10.0?instance=true", "measure.picks=none", "measure.bilayer=no"]
SHAPE = (48, 72, 96)


def distance(centre: tuple[float, float, float], spacing: float = 10.0, shape: Any = SHAPE) -> np.ndarray:
    z, y, x = (axis * spacing / 10.0 for axis in np.indices(shape))
    return np.asarray(np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a mitochondrion (1) with a crista (2), and an endosome (3) 4 nm beside it, as instances at 10 Å."""
    objects = [("membrane", False, None), ("mitochondrion", False, None), ("endosome", False, None)]
    made = create_project(str(tmp_path / "project"), objects=objects)
    made.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), np.zeros(SHAPE, np.float32))
    mito, crista, endosome = distance((24, 36, 30)), distance((24, 36, 32)), distance((24, 36, 71))
    instances = np.zeros(SHAPE, np.uint8)
    for number, (radius, size) in enumerate(((mito, 20), (crista, 8), (endosome, 14)), 1):
        instances[abs(radius - size) < 2] = number
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, True), instances)
    coarse = (24, 36, 48)  # the tools' voxels are twice as large
    for name, mask in (
        ("mitochondrion", distance((24, 36, 30), 20.0, coarse) < 22),
        ("endosome", distance((24, 36, 71), 20.0, coarse) < 16),
    ):
        made.write_segmentation(SegmentationRef("TS_1", name, "deepfinder", "1", 20.0), mask.astype(np.uint8))
    both = np.where(distance((24, 36, 30), 20.0, coarse) < 22, 5, 0) + np.where(
        distance((24, 36, 71), 20.0, coarse) < 16, 7, 0
    )
    made.write_segmentation(
        SegmentationRef("TS_1", "organelles-multilabel", "deepfinder", "1", 20.0), both.astype(np.uint8)
    )
    return made


def run(project: Project, *overrides: str, stages: tuple[str, ...] = ("mesh", "organelle")) -> list[Outcome]:
    settings = load_settings(None, [*GIVEN, *overrides])
    made = plan(project, settings, STAGES, stages=stages)
    return list(execute_plan(project, settings, made, InProcessRunner(), STAGES))


def organelles(project: Project) -> dict[int, str | None]:
    rows = open_tables(project).read("membrane_organelles").to_pylist()
    return {row["membrane_id"]: row["organelle"] for row in rows}


ONE_EACH = "organelle.segmentations=mitochondrion:deepfinder/1, endosome:deepfinder/1"
TRUTH = {1: "mitochondrion", 2: "mitochondrion", 3: "endosome"}


def test_one_object_each_and_several_labels_agree(project: Project) -> None:
    outcomes = run(project, ONE_EACH, stages=("mesh", "measure", "organelle"))
    assert [outcome.line() for outcome in outcomes if outcome.state != "done"] == []
    assert organelles(project) == TRUTH
    counts = outcomes[-1].counts
    assert counts["of_organelle"] == {"endosome": 1, "mitochondrion": 2}
    assert check_tables(open_tables(project)) == []
    several = "organelle.segmentations=organelles:deepfinder/1"
    (unnamed,) = (outcome for outcome in run(project, several) if outcome.stage == "organelle")
    assert "no name for label 5, 7" in unnamed.message
    (named,) = run(project, several, "organelle.labels=5=mitochondrion,7=endosome", stages=("organelle",))
    assert named.state == "done"
    assert organelles(project) == TRUTH
    uris = set(open_tables(project).read("membrane_organelles").to_pandas()["organelles_uri"])
    assert uris == {"organelles-multilabel:deepfinder/1@20.000"}


def test_statistics_are_grouped_and_contacts_found(project: Project) -> None:
    pytest.importorskip("duckdb")
    run(project, ONE_EACH, stages=("mesh", "measure", "organelle"))
    analysis = tables.open(project.config, organelles=True)
    area = analysis.histogram("mean_curvature_per_nm", by="organelle").groupby("organelle")["area_um2"].sum() * 1e6
    for name, radii in (("mitochondrion", (20, 8)), ("endosome", (14,))):
        assert area[name] == pytest.approx(sum(4 * np.pi * r**2 for r in radii), rel=0.06)
    contacts = tables.open(project.config).organelle_contacts().set_index(["organelle", "other_organelle"])
    touching = contacts.loc[("mitochondrion", "endosome")]
    assert touching["min_distance_nm"] == pytest.approx(71 - 30 - 20 - 14 - 3, abs=0.3)
    assert touching["n_in_contact"] == 1
    assert touching["contact_area_um2"] > 0
    assert contacts.loc[("mitochondrion", "mitochondrion")]["n_pairs"] >= 1  # the crista and the outer membrane
    by_run = tables.open(project.config, organelles=True).organelle_contacts(by="run_name")
    assert set(by_run["run_name"]) == {"TS_1"}
    rows = tables.open(project.config).sql(
        "SELECT organelle, sum(one_sided_area_nm2) AS area FROM membranes JOIN membrane_organelles "
        "USING (dataset_id, run_name, tomogram_id, segmentation, membrane_id) GROUP BY ALL"
    )
    assert set(rows.iloc[:, 0]) == {"mitochondrion", "endosome"}


def test_a_changed_segmentation_is_assigned_again(project: Project) -> None:
    run(project, ONE_EACH)
    assert {outcome.state for outcome in run(project, ONE_EACH)} == {"skipped"}
    empty = np.zeros((24, 36, 48), np.uint8)
    project.write_segmentation(SegmentationRef("TS_1", "endosome", "deepfinder", "1", 20.0), empty)
    (again,) = (outcome for outcome in run(project, ONE_EACH) if outcome.stage == "organelle")
    assert again.state == "done"
    assert organelles(project) == TRUTH | {3: None}
    assert again.counts["without_organelle"] == 1


def test_an_absent_object_is_left_out_and_all_absent_are_refused(project: Project) -> None:
    (done,) = run(project, "organelle.segmentations=mitochondrion:deepfinder/1,er:deepfinder/1")[1:]
    assert done.state == "done"
    assert organelles(project) == TRUTH | {3: None}
    (refused,) = (o for o in run(project, "organelle.segmentations=er:deepfinder/1") if o.stage == "organelle")
    assert refused.state == "failed"
    assert "mitochondrion:deepfinder/1@20.000" in refused.next_step


def test_settings_and_tables_without_organelles(project: Project) -> None:
    assert ORGANELLE.is_replaced(load_settings(None, []))
    plain = load_settings(None, [ONE_EACH])
    assert ORGANELLE.after(plain) == ("mesh",)
    assert ORGANELLE.digest_settings(plain) != ORGANELLE.digest_settings(
        load_settings(None, [ONE_EACH, "organelle.reach_nm=3"])
    )
    assert OrganelleSettings(labels="1=er, 2=golgi").names_of_labels == {1: "er", 2: "golgi"}
    for wrong in ("organelle.labels=er=1", "organelle.segmentations=er", "organelle.least_share=2"):
        with pytest.raises(UsageError):
            load_settings(None, [wrong])
    with pytest.raises(UsageError, match="run the stage organelle first"):
        organelles_of_membranes(open_tables(project))

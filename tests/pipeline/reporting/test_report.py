"""The report page: its content from a project with and without results, and the page itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.reporting.report import (
    nearest_neighbors_nm,
    report_data,
    rows_by_run,
    stages_table,
    tomogram_report,
    write_report,
)
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project

TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
MASK = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)


def test_stages_are_done_or_to_do(project: Project, registry: Registry) -> None:
    one = plan(project, Settings(), registry, runs=["TS_1"])
    execute_plan(project, Settings(), one, InProcessRunner(), registry)
    table = stages_table(plan(project, Settings(), registry, runs=["TS_1", "TS_2"]))
    assert [column.label for column in table.columns] == ["tomogram", "mask", "size"]
    assert table.rows == (("TS_1", "done", "done"), ("TS_2", "to do", "to do"))


def test_slices_are_the_middle_planes(project: Project) -> None:
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[4, 5] = 1
    project.write_segmentation(MASK, labels)
    report = tomogram_report(project, "TS_1", {"density": TOMOGRAM, "labels": MASK}, {})
    density = project.read_density(TOMOGRAM)
    xy, xz = report.slices
    assert (xy.plane, xy.index, xz.plane, xz.index) == ("xy", 4, "xz", 5)
    np.testing.assert_array_equal(xy.density, density[4])
    np.testing.assert_array_equal(xz.density, density[:, 5])
    np.testing.assert_array_equal(xy.instances, labels[4])
    assert report.notes == ("it has not been measured with these settings yet",)
    assert report.meshes == {}
    assert report.picks is None


def test_a_segmentation_of_another_shape_is_not_drawn(project: Project) -> None:
    project.write_segmentation(MASK, np.ones((4, 5, 6), np.uint8))
    report = tomogram_report(project, "TS_1", {"density": TOMOGRAM, "labels": MASK}, {})
    assert all(not view.instances.any() for view in report.slices)


def test_rows_of_membranes_have_medians_of_neighbours(project: Project) -> None:
    row = {
        "membrane_id": 1, "one_sided_area_nm2": 5.0, "is_closed": True, "n_particles": 3, "particles_per_um2": 7.0,
        "bilayer_thickness_nm": None, "error": None,
    }  # fmt: skip
    own = {"membrane_id": 1, "rank": 1, "object_name": "psii", "target_object_name": "psii"}
    neighbors = [own | {"geodesic_nm": value} for value in (1.0, 2.0, 9.0)]
    neighbors += [own | {"rank": 2, "geodesic_nm": 50.0}, own | {"target_object_name": "atp", "geodesic_nm": 60.0}]
    rows = {"membranes": [row, row | {"membrane_id": 2, "error": "no volume"}], "neighbors": neighbors}
    report = tomogram_report(project, "TS_1", {"density": TOMOGRAM}, rows)
    assert [membrane.nearest_neighbor_nm for membrane in report.membranes] == [2.0, None]
    assert report.notes == ("membrane 2 could not be measured: no volume",)
    np.testing.assert_array_equal(nearest_neighbors_nm(neighbors), [1.0, 2.0, 9.0])


def test_nothing_measured_has_no_rows() -> None:
    assert rows_by_run(None) == {}


def test_the_page_counts_what_it_shows(project: Project, registry: Registry, tmp_path: Path) -> None:
    picks, truth = ObjectRef("TS_1", "voxels", "alice", "1"), ObjectRef("TS_1", "voxels", "truth", "0")
    for ref, count in ((picks, 2), (truth, 3)):
        project.write_picks(ref, Picks(np.ones((count, 3))))
    shown = plan(project, Settings(), registry)
    shown = replace(shown, refs={"TS_1": {"density": TOMOGRAM, "picks": picks}, "TS_2": {}})
    data = report_data(project, Settings(), shown, scores=None, truth={"TS_1": truth}, truth_neighbors_nm={})
    assert {number.label: number.value for number in data.numbers} == {
        "tomograms": 1,
        "membranes": 0,
        "particles": 2,
        "failures": 0,
    }
    (tomogram,) = data.tomograms
    assert tomogram.truth_picks is not None
    assert len(tomogram.truth_picks) == 3
    page = write_report(project, Settings(), shown, str(tmp_path / "page.html"))
    assert page == str(tmp_path / "page.html")
    assert "TS_1" in Path(page).read_text()
    default = write_report(project, Settings(), shown)
    assert Path(default) == Path(project.config).with_name("report.html")


@pytest.mark.parametrize("rows", [[], [{"rank": 2, "object_name": "a", "target_object_name": "a", "geodesic_nm": 1.0}]])
def test_particles_without_neighbours_have_no_distance(rows: list[dict[str, object]]) -> None:
    assert nearest_neighbors_nm(rows).shape == (0,)

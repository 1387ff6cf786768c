"""The runs of a deposition: names, datasets and spacings from a portal manifest or from the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.projects.deposit import deposited_runs
from membrain_cloud.store.portal.deposition import DepositedRun
from membrain_cloud.store.projects.manifest import write_manifest
from membrain_cloud.store.projects.open import open_project

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

PORTAL_ROW = {
    "tomogram_id": "7", "run_name": "TS_1", "dataset_id": "10301", "deposition_id": None, "tomogram_type": "wbp",
    "voxel_spacing_angstrom": 10.0, "size_z": 8, "size_y": 10, "size_x": 12, "level": "0", "identity": "x", "bytes": 1,
    "portal_run_name": "Position_7",
}  # fmt: skip


def test_a_project_deposits_its_own_names(project: Project) -> None:
    assert deposited_runs(project, ["TS_2"], "10301") == [DepositedRun("TS_2", "TS_2", "10301", 10.0, (8, 10, 12))]
    assert [run.name for run in deposited_runs(project, [], "10301")] == ["TS_1", "TS_2", "TS_3"]


def test_an_unknown_dataset_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="the dataset of TS_1 is unknown") as caught:
        deposited_runs(project, ["TS_1"], None)
    assert "portal manifest" in caught.value.next_step


@pytest.mark.parametrize(
    ("spacing", "deposited", "shape"),
    [(10.0004, 10.0004, (8, 10, 12)), (4.99, 4.99, None), (None, 10.0, (8, 10, 12))],
    ids=["same spacing in full", "coarser copy", "spacing unknown"],
)
def test_a_portal_manifest_names_everything(
    tmp_path: Path, spacing: float | None, deposited: float, shape: tuple[int, int, int] | None
) -> None:
    path = str(tmp_path / "manifest.parquet")
    row = {**PORTAL_ROW, "url": f"{tmp_path}/absent.zarr", "full_voxel_spacing_angstrom": spacing}
    write_manifest(path, [row], overlay_root=str(tmp_path / "overlay"))
    (run,) = deposited_runs(open_project(path), [], None)
    assert run == DepositedRun("TS_1", "Position_7", "10301", deposited, shape)

"""A selection is written once, without secrets, as a manifest and a config that open the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.store.portal.selection import PortalQuery, Selection, Tomogram
from membrain_cloud.store.portal.write_selection import check_no_selection, write_selection
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import TomogramRef

TOMOGRAM = Tomogram(
    tomogram_id="101",
    run_name="7",
    dataset_id="10301",
    deposition_id=None,
    tomogram_type="wbp-raw",
    voxel_spacing_angstrom=10.0,
    shape=(4, 5, 6),
    level="1",
    url="s3://bucket/101.zarr",
    identity="abc",
    bytes=100,
    portal_run_name="TS_1",
    organism=None,
    full_voxel_spacing_angstrom=5.0,
    visualization_default=True,
)
SELECTION = Selection((TOMOGRAM,), {"above the limit": 3}, 1)


def written(folder: Path, **options: Any) -> dict[str, str]:
    given = {"overlay_fs_args": {}, "source_fs_args": {"anon": True}, "how": {"seed": 1}} | options
    query = PortalQuery(datasets=(10301,))
    return write_selection(str(folder), SELECTION, query, overlay=str(folder / "overlay"), **given)


def test_manifest_and_config_name_the_same_results(tmp_path: Path) -> None:
    check_no_selection(str(tmp_path))
    files = written(tmp_path)
    project = open_project(files["manifest"])
    (tomogram,) = project.tomograms(None, None, None)
    assert tomogram == TomogramRef("7", "wbp-raw", 10.0)
    assert (project.grid(tomogram).shape, project.dataset_of("7"), project.tomogram_id("7")) == (
        (4, 5, 6),
        "10301",
        "101",
    )
    config = json.loads(Path(files["config"]).read_text())
    assert config["overlay_root"] == f"local://{project.root_url}"
    assert config["dataset_ids"] == [10301]
    with pytest.raises(UsageError, match="is there already"):
        check_no_selection(str(tmp_path))


def test_the_manifest_says_how_it_was_selected(tmp_path: Path) -> None:
    from membrain_cloud.store.projects.manifest import read_manifest

    selection = read_manifest(written(tmp_path)["manifest"]).metadata["selection"]
    assert selection["query"] == {"datasets": [10301], "membrane_identifier": "GO:0016020"}
    assert (selection["seed"], selection["left_out"]) == (1, {"above the limit": 3})


@pytest.mark.parametrize("where", ["overlay_fs_args", "source_fs_args"])
def test_secrets_are_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(UsageError, match="option secret would be written") as caught:
        written(tmp_path, **{where: {"secret": "x"}})
    assert "AWS_PROFILE" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []

"""Outputs of a volume file: when they count as complete, and how they get their names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.files.outputs import SegmentedFile, earlier_outputs, file_identity, publish, staging

RECIPE = {"segment": {"window": 16}}


def planned(folder: Path) -> SegmentedFile:
    return SegmentedFile(
        "TS_1.mrc", "done", str(folder / "a_segmented.mrc"), str(folder / "a_scores.mrc"), None, None, 0, None, ()
    )


def publish_files(output: Path, *, voxels: int = 5) -> SegmentedFile:
    with staging(str(output)) as folder:
        staged = planned(Path(folder))
        for name in staged.outputs:
            Path(name).write_bytes(b"voxels")
        finished = SegmentedFile(**{**vars(staged), "membrane_voxels": voxels, "notes": ("a note",)})
        return publish(finished, staged, planned(output), RECIPE)


def test_published_outputs_are_found_again(tmp_path: Path) -> None:
    published = publish_files(tmp_path)
    assert (published.membrane_voxels, published.notes) == (5, ("a note",))
    assert sorted(os.listdir(tmp_path)) == ["a_scores.mrc", "a_segmented.json", "a_segmented.mrc"]
    earlier = earlier_outputs(planned(tmp_path), RECIPE, overwrite=False)
    assert earlier is not None
    assert (earlier.state, earlier.membrane_voxels) == ("skipped", 5)
    record = json.loads((tmp_path / "a_segmented.json").read_text())
    assert record["outputs"] == {"a_scores.mrc": 6, "a_segmented.mrc": 6}


def test_other_files_are_refused_unless_overwrite(tmp_path: Path) -> None:
    publish_files(tmp_path)
    with pytest.raises(UsageError, match="made otherwise"):
        earlier_outputs(planned(tmp_path), {"segment": {"window": 32}}, overwrite=False)
    (tmp_path / "a_scores.mrc").write_bytes(b"longer than before")
    with pytest.raises(UsageError, match="changed since"):
        earlier_outputs(planned(tmp_path), RECIPE, overwrite=False)
    assert earlier_outputs(planned(tmp_path), RECIPE, overwrite=True) is None
    (tmp_path / "a_scores.mrc").unlink()
    assert earlier_outputs(planned(tmp_path), RECIPE, overwrite=False) is None


def test_the_identity_changes_with_the_file(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.mrc", tmp_path / "a.zarr"
    file.write_bytes(b"1234")
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "chunk").write_bytes(b"1234")
    before = file_identity(str(file)), file_identity(str(folder))
    assert before == (file_identity(str(file)), file_identity(f"{folder}/"))
    os.utime(file, ns=(1, 1))
    (folder / "0" / "chunk").write_bytes(b"12345")
    assert len({*before, file_identity(str(file)), file_identity(str(folder))}) == 4

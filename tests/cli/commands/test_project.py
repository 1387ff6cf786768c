"""`membrain-cloud project`: files become a project, and a project a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from click.testing import CliRunner
from standins.command_line import call, call_json

from membrain_cloud.cli.commands.project import project as project_group
from membrain_cloud.store.formats.volume_writer import write_mrc
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import ObjectRef

if TYPE_CHECKING:
    import pytest

    from membrain_cloud.store.projects.project import Project


def test_files_become_a_project_and_annotations_go_in_and_out(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "TS 1.mrc"), np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32), 12.5)
    folder = str(tmp_path / "project")
    result = call("project", "init", folder, "--tomograms", str(tmp_path / "*.mrc"))
    assert result.exit_code == 0, result.output
    config = result.stdout.strip()
    assert "12.5" in result.stderr
    assert open_project(config).runs() == ["TS-1"]
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5] = 1
    write_mrc(str(tmp_path / "labels.mrc"), labels, 12.5)
    imported = call("import", "segmentation", config, str(tmp_path / "labels.mrc"), "-r", "TS-1", "--user", "alice")
    assert imported.stdout.strip() == "membrane:alice/1@12.500"
    output = str(tmp_path / "out.mrc")
    assert call("export", "mrc", config, "membrane:alice/1@12.5", "-r", "TS-1", "--output", output).exit_code == 0
    (tmp_path / "picks.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    options = ["-r", "TS-1", "--user", "expert", "--object", "psii"]
    words = [*options, "--voxel-spacing", "12.5"]
    assert call("import", "picks", config, str(tmp_path / "picks.csv"), *words).stdout.strip() == "psii:expert/1"
    star = str(tmp_path / "picks.star")
    assert call("export", "star", config, "psii:expert/1", "-r", "TS-1", "--output", star).exit_code == 0
    assert call("import", "picks", config, star, *options, "--session", "2").exit_code == 0
    positions = open_project(config).read_picks(ObjectRef("TS-1", "psii", "expert", "2")).positions
    np.testing.assert_allclose(positions, np.array([[1, 2, 3], [4, 5, 6]]) * 12.5)


def test_no_tomogram_files_is_bad_usage(tmp_path: Path) -> None:
    assert call("project", "init", str(tmp_path / "p"), "--tomograms", str(tmp_path / "*.mrc")).exit_code == 2


def test_a_project_without_files_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(project_group, ["init", "empty"])
    assert result.output.strip() == str(tmp_path / "empty" / "config.json")
    assert open_project(result.output.strip()).runs() == []


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("TS_1.mrc", ".TS_2.mrc"):
        write_mrc(str(tmp_path / name), np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32), 12.5)
    result = call("project", "init", str(tmp_path / "project"), "--tomograms", str(tmp_path / "*.mrc"))
    assert open_project(result.stdout.strip()).runs() == ["TS_1"]


def test_a_manifest_counts_tomograms(vesicles: Project, tmp_path: Path) -> None:
    file = str(tmp_path / "all.parquet")
    counts = call_json("project", "manifest", vesicles.config, "--output", file)
    assert counts == {"manifest": file, "tomograms": 1, "left_out": {}}
    assert Path(file).is_file()
    refused = call("project", "manifest", vesicles.config, "--output", "all.csv")
    assert refused.exit_code == 2
    assert "name it FILE.parquet" in refused.stderr

"""Files of other programs that are imported, or refused; folders of meshes as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins.command_line import call

from membrain_cloud.cli.commands.exchange.import_files import StatisticsOptions
from membrain_cloud.errors import UsageError
from membrain_cloud.store.formats.volume_writer import write_mrc

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

OPTIONS = ("-r", "TS_1", "--object", "psii", "--user", "bob")


def test_a_star_file_without_angles_or_units(spheres: Project, tmp_path: Path) -> None:
    columns = "".join(f"_rlnCoordinate{axis} #{n}\n" for n, axis in enumerate("XYZ", 1))
    (tmp_path / "p.star").write_text(f"data_\n\nloop_\n{columns}10 20 3\n11 21 4\n")
    (tmp_path / "q.star").write_text("data_\n\nloop_\n_rlnAngleRot #1\n10\n")
    refused = call("import", "picks", spheres.config, "p.star", *OPTIONS)
    assert refused.exit_code == 2
    assert "give --voxel-spacing" in refused.output
    refused = call("import", "picks", spheres.config, "q.star", *OPTIONS, "--voxel-spacing", "8")
    assert refused.exit_code == 2
    assert "no coordinates" in refused.output
    imported = call("import", "picks", spheres.config, "p.star", *OPTIONS, "--voxel-spacing", "8")
    picks = spheres.read_picks(spheres.object("TS_1", imported.stdout.strip()))
    np.testing.assert_allclose(picks.positions, [[80, 160, 24], [88, 168, 32]])
    assert picks.orientations is None


def test_an_origin_is_subtracted(spheres: Project, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    words = ("--voxel-spacing", "8", "--origin", "1", "2", "3")
    imported = call("import", "picks", spheres.config, "p.csv", *OPTIONS, *words)
    picks = spheres.read_picks(spheres.object("TS_1", imported.stdout.strip()))
    np.testing.assert_allclose(picks.positions, [[7, 14, 21]])


def test_a_file_that_cannot_be_read_is_named(spheres: Project, tmp_path: Path) -> None:
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    refused = call("import", "meshes", spheres.config, "bad.obj", "-r", "TS_1", "--user", "bob")
    assert refused.exit_code != 0
    assert "bad.obj" in refused.output


@pytest.mark.parametrize("name", ["a@b", "a:b", "a?b"])
def test_names_that_make_no_uri_are_refused(spheres: Project, tmp_path: Path, name: str) -> None:
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    words = ("-r", "TS_1", "--object", "psii", "--user", name, "--voxel-spacing", "8")
    refused = call("import", "picks", spheres.config, "p.csv", *words)
    assert refused.exit_code == 2
    assert name in refused.output
    assert len(spheres.picks("TS_1")) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("--label", "2"), {0, 1}), (("--instances",), {0, 1, 2}), ((), None)],
)
def test_labels_of_a_volume(spheres: Project, tmp_path: Path, words: tuple[str, ...], expected: Any) -> None:
    labels = np.zeros((20, 40, 60), np.uint8)
    labels[2:5], labels[8:11] = 1, 2
    write_mrc(str(tmp_path / "labels.mrc"), labels, 8.0)
    arguments = ("import", "segmentation", spheres.config, "labels.mrc", "-r", "TS_1", "--user", "bob", *words)
    result = call(*arguments)
    if expected is None:
        assert result.exit_code == 2
        assert "2 labels" in result.output
        return
    ref = spheres.segmentation("TS_1", result.stdout.strip())
    assert set(np.unique(spheres.read_labels(ref)).tolist()) == expected


def statistics(**values: Any) -> StatisticsOptions:
    given: dict[str, Any] = {"url": "tables", "pixel_size_multiplier": None, "particles": None, "inverse_angles": False}
    given["surface"] = None
    return StatisticsOptions(**(given | {"pixel_size_multiplier_positions": 14.08, "classes": ()} | values))


def test_statistics_options_are_those_of_the_pipeline() -> None:
    options = statistics(classes=("1=psii", "2=cytb6f")).folder_options()
    assert (options.dataset, options.object_name) == ("local", "particle")
    assert (options.units.mesh, options.units.positions) == (None, 14.08)
    assert dict(options.objects) == {1: "psii", 2: "cytb6f"}


def test_a_class_without_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match="psii"):
        statistics(classes=("psii",)).folder_options()

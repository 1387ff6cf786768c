"""The commands of this package under copick's command line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from standins.foreign_volumes import write_foreign

from membrain_cloud.cli import copick_plugin
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for group, entries in tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"].items()
    for name, value in entries.items()
    if group.startswith("copick.")
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project of two runs with alice's mask of a flat membrane; TS_1 has a tomogram."""
    project = create_project(str(tmp_path), objects=[("membrane", False, "GO:0016020")])
    mask = np.zeros((20, 24, 28), np.uint8)
    mask[9:12, 3:21, 3:25] = 1
    rng = np.random.default_rng(0)
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), rng.normal(size=mask.shape).astype(np.float32))
    for run in ("TS_1", "TS_2"):
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "3", 10.0), mask)
    return project


def call(command: click.Command, project: Project, *words: str) -> Result:
    options = ["--in-process", "--set", "separate.min_voxels=5"]
    return CliRunner().invoke(command, [*options, *words], env={"COPICK_CONFIG": project.config})


def test_entry_points_are_commands_of_copicks_groups() -> None:
    from copick.cli.ext import PLUGIN_GROUPS

    for entry in ENTRY_POINTS:
        command = entry.load()
        assert isinstance(command, click.Command)
        assert command.name == entry.name
        assert entry.group.removeprefix("copick.").removesuffix(".commands") in PLUGIN_GROUPS
    assert {entry.group for entry in ENTRY_POINTS} >= {
        "copick.inference.commands",
        "copick.training.commands",
        "copick.process.commands",
    }


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    heavy = ("torch", "monai", "dask", "distributed", "copick", "zarr", "pyarrow", "scipy", "pydantic", "matplotlib")
    code = f"import sys, membrain_cloud.cli.copick_plugin; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_a_mask_is_separated_and_meshed(project: Project) -> None:
    result = call(copick_plugin.separate, project, "-i", "membrane:alice/3@10.0", "-r", "TS_1,TS_2")
    assert result.exit_code == 0, result.output
    for run in ("TS_1", "TS_2"):
        (instances,) = [ref for ref in project.segmentations(run) if ref.instance]
        assert instances.user == "membrain"
        assert project.read_labels(instances).max() == 1
    result = call(copick_plugin.mesh, project, "-i", "membrane:alice/3@10.0", "-r", "TS_1", "-o", "membrane:bob/7")
    assert result.exit_code == 0, result.output
    assert ObjectRef("TS_1", "membrane", "bob", "7") in project.meshes("TS_1")
    assert not project.meshes("TS_2")


def test_measure_writes_tables(project: Project) -> None:
    result = call(copick_plugin.measure, project, "-i", "membrane:alice/3@10.0", "-r", "TS_2")
    assert result.exit_code == 0, result.output
    import membrain_cloud.tables

    tables = membrain_cloud.tables.open(f"{project.root_url}/membrain-cloud/tables")
    assert tables is not None
    assert (Path(project.root_url) / "membrain-cloud" / "tables" / "membranes").is_dir()


def test_finished_work_is_repeated_only_with_overwrite(project: Project) -> None:
    words = ("-i", "membrane:alice/3@10.0", "-r", "TS_1")
    assert "1 done" in call(copick_plugin.separate, project, *words).output
    assert "0 done, 1 skipped" in call(copick_plugin.separate, project, *words).output
    assert "1 done" in call(copick_plugin.separate, project, *words, "--overwrite").output


def test_other_settings_in_one_session_need_overwrite(project: Project) -> None:
    words = ("-i", "membrane:alice/3@10.0", "-r", "TS_1", "-o", "membrane:team/1")
    assert call(copick_plugin.separate, project, *words).exit_code == 0
    other = (*words, "--set", "separate.drop_border=true")
    assert call(copick_plugin.separate, project, *other).exit_code != 0
    assert "1 done" in call(copick_plugin.separate, project, *other, "--overwrite").output


def test_a_foreign_annotation_is_replaced_only_on_request(project: Project) -> None:

    foreign = SegmentationRef("TS_1", "membrane", "carol", "1", 10.0, True)
    write_foreign(f"{project.root_url}/{foreign.path}", np.full((20, 24, 28), 9, np.uint8), separator="/")
    words = ("-i", "membrane:alice/3@10.0", "-r", "TS_1", "-o", "membrane:carol/1")
    refused = call(copick_plugin.separate, project, *words)
    assert refused.exit_code == 1
    assert "was not made by membrain-cloud" in refused.output
    assert project.read_labels(foreign).min() == 9
    assert call(copick_plugin.separate, project, *words, "--overwrite").exit_code == 0
    assert project.read_labels(foreign).max() == 1


def test_inference_segments(project: Project) -> None:
    words = ("-r", "TS_1", "-i", "wbp@10.0", "--no-instances", "--preset", "czii", "--set", "segment.window=32")
    result = call(copick_plugin.inference, project, *words, "--set", "segment.mirrors=no")
    assert result.exit_code == 0, result.output
    # The place of CZII's own runs.
    assert SegmentationRef("TS_1", "membrane", "membrain-seg", "0", 10.0) in project.segmentations("TS_1")
    path = "ExperimentRuns/TS_1/Segmentations/10.000_membrain-seg_0_membrane.zarr"
    assert (Path(project.root_url) / path).is_dir()


def test_objects_that_a_config_lacks_are_added(tmp_path: Path) -> None:
    import json

    bare = create_project(str(tmp_path), objects=[("ribosome", True, None)])
    bare.write_segmentation(SegmentationRef("TS_1", "thing", "alice", "3", 10.0), np.ones((20, 20, 20), np.uint8))
    assert call(copick_plugin.separate, bare, "-i", "thing:alice/3@10.0").exit_code == 0
    objects = {entry["name"]: entry for entry in json.loads(Path(bare.config).read_text())["pickable_objects"]}
    assert objects["membrane"]["identifier"] == "GO:0016020"
    import copick

    assert copick.from_file(bare.config).get_object("membrane").identifier == "GO:0016020"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("-i", "membrane:alice/3@10.0", "-o", "vesicle:a/b"), "write membrane:user/session"),
        (("-i", "membrane:alice/3@10.0", "-r", "TS_9"), "TS_9"),
        (("-i", "membrane:alice/3@10.0", "--set", "separate.no=1"), "unknown setting"),
        ((), "-i"),
    ],
)
def test_bad_options_are_refused(project: Project, words: tuple[str, ...], cause: str) -> None:
    result = call(copick_plugin.separate, project, *words)
    assert result.exit_code != 0
    assert cause in result.output


def test_training_passes_its_options_on() -> None:
    result = CliRunner().invoke(copick_plugin.train_segmentation, ["--help"])
    assert result.exit_code == 0
    assert "--specimens" in result.output
    result = CliRunner().invoke(copick_plugin.train_picker, ["--output", "x"])
    assert result.exit_code == 2
    assert "--work" in result.output

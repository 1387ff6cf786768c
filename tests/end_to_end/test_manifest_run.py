"""Runs from a manifest: planned without opening a tomogram, done on any runner, written to the row's dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner, open_runner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.manifest import read_manifest, write_manifest
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def frozen(project: Project, output: Path, *arguments: str) -> Project:
    command = ["project", "manifest", project.config, "--output", str(output), *arguments]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return open_project(str(output))


def elsewhere(manifest: Project, folder: Path, **changes: str) -> Project:
    """Return a manifest of the same tomograms, with results in another overlay."""
    rows = [
        {
            "tomogram_id": row.tomogram_id, "run_name": run, "dataset_id": f"1030{number}", "deposition_id": None,
            "tomogram_type": row.ref.tomogram_type, "voxel_spacing_angstrom": row.voxel_spacing_angstrom,
            "size_z": row.shape[0], "size_y": row.shape[1], "size_x": row.shape[2], "level": row.level,
            "url": row.url, "identity": row.identity, "bytes": row.bytes,
        } | changes
        for number, (run, row) in enumerate(read_manifest(manifest.config).rows.items())
    ]  # fmt: skip
    path = str(folder / "elsewhere.parquet")
    write_manifest(path, rows, overlay_root=str(folder / "overlay"))
    return open_project(path)


@pytest.mark.parametrize("workers", [None, 1])
def test_a_manifest_runs_like_its_project(
    project: Project, tmp_path: Path, registry: Registry, workers: int | None
) -> None:
    manifest = elsewhere(frozen(project, tmp_path / "all.parquet"), tmp_path)
    made = plan(manifest, Settings(), registry)
    assert [task.digest for task in made.tasks] == [task.digest for task in plan(project, Settings(), registry).tasks]
    with open_runner(workers=workers, scheduler=None, in_process=workers is None) as runner:
        outcomes = execute_plan(manifest, Settings(), made, runner, registry)
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert {len(manifest.picks(run)) for run in manifest.runs()} == {1}
    assert not any(project.picks(run) for run in project.runs())
    assert plan(manifest, Settings(), registry).tasks == ()


def test_results_of_the_project_count_in_its_manifest(project: Project, tmp_path: Path, registry: Registry) -> None:
    execute_plan(project, Settings(), plan(project, Settings(), registry, runs=["TS_2"]), InProcessRunner(), registry)
    manifest = frozen(project, tmp_path / "all.parquet")
    assert {task.run for task in plan(manifest, Settings(), registry).tasks} == {"TS_1", "TS_3"}
    only = frozen(project, tmp_path / "one.parquet", "-r", "TS_3")
    assert only.runs() == ["TS_3"]


@pytest.mark.parametrize("stages", ["small", "real"])
def test_planning_a_manifest_reads_receipts_only(
    project: Project, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, stages: str
) -> None:
    stages_by_name, count = (registry, 6) if stages == "small" else (STAGES, 15)
    manifest = elsewhere(frozen(project, tmp_path / "all.parquet"), tmp_path, url="s3://nowhere/at-all")
    asked: list[str] = []
    for name in ("read", "exists", "info", "children"):
        monkeypatch.setattr(Files, name, lambda self, path="", name=name: asked.append(f"{name} {path}"))
    monkeypatch.setattr(Files, "listing", lambda self, path="": asked.append(f"listing {path}") or {})
    assert len(plan(manifest, Settings(), stages_by_name).tasks) == count
    assert all(request.startswith("listing ") for request in asked)
    assert len(asked) == count, "one for each stage and run, as there are few runs"


def test_a_wrong_row_fails_alone(project: Project, tmp_path: Path, registry: Registry) -> None:
    manifest = elsewhere(frozen(project, tmp_path / "all.parquet"), tmp_path)
    (Path(project.root_url) / "ExperimentRuns/TS_2/VoxelSpacing10.000/wbp.zarr/0/.zarray").unlink()
    outcomes = execute_plan(manifest, Settings(), plan(manifest, Settings(), registry), InProcessRunner(), registry)
    failed = {outcome.run for outcome in outcomes if outcome.state == "failed"}
    assert failed == {"TS_2"}
    assert any("make the manifest again" in outcome.next_step for outcome in outcomes)


def test_rows_of_tables_go_to_the_dataset_of_the_manifest(tmp_path: Path) -> None:
    """The real stages, from a given mask to the tables."""
    shape = (32, 40, 40)
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, None)])
    z, y, x = np.indices(shape, dtype=np.float32)
    shell = np.abs(np.sqrt((z - 16) ** 2 + (y - 20) ** 2 + (x - 20) ** 2) - 11) <= 2.5
    for run in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), np.zeros(shape, np.float32))
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "1", 10.0), shell.astype(np.uint8))
    manifest = frozen(project, tmp_path / "all.parquet", "--dataset", "10301")
    settings = load_settings(None, ["separate.segmentation=membrane:alice/1", "measure.picks=none"])
    made = plan(manifest, settings, STAGES)
    outcomes = execute_plan(manifest, settings, made, InProcessRunner(), STAGES)
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.line() for outcome in outcomes]
    rows = open_tables(manifest, settings.output.tables).read("tomograms").to_pylist()
    assert [(row["dataset"], row["dataset_id"], row["run_name"], row["tomogram_id"]) for row in rows] == [
        ("10301", "10301", "TS_1", "TS_1/wbp@10.000"),
        ("10301", "10301", "TS_2", "TS_2/wbp@10.000"),
    ]
    assert plan(manifest, settings, STAGES).tasks == ()


def test_every_verb_takes_a_manifest(project: Project, tmp_path: Path) -> None:
    manifest = frozen(project, tmp_path / "all.parquet").config
    page = str(tmp_path / "page.html")
    for command in (
        ["plan", manifest, "--json"], ["status", manifest, "--json"], ["failures", manifest, "--json"],
        ["verify", manifest, "--json"], ["clean", manifest, "--json"], ["report", manifest, "--output", page],
        ["tables", "list", manifest, "--json"],
    ):  # fmt: skip
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        if "--json" in command:
            json.loads(done.stdout)


def test_a_manifest_is_written_as_parquet(project: Project, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["project", "manifest", project.config, "--output", str(tmp_path / "all.json")])
    assert done.exit_code == 2
    assert "name it FILE.parquet" in done.stderr

"""verify finds lost, torn, changed and foreign outputs; clean removes what no receipt covers, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.geometry import Picks
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.maintenance.clean import find_orphans, remove_orphans
from membrain_cloud.pipeline.maintenance.verify import verify
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.projects.project import USER, Project
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (32, 40, 40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run segment (in blocks, with scores), separate, mesh and measure on a project; return it and its settings."""
    folder = tmp_path_factory.mktemp("truth")
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    model = folder / "m.safetensors"
    facts = {"window": 16, "voxel_spacing_angstrom": 10.0}
    save_segmenter(model, build_unet(architecture), architecture, facts)
    project = create_project(str(folder / "p"), objects=[("membrane", False, "GO:0016020")])
    rng = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE, dtype=np.float32)
    shell = np.abs(np.sqrt((z - 16) ** 2 + (y - 20) ** 2 + (x - 20) ** 2) - 11) <= 2.5
    for run in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), rng.normal(size=SHAPE).astype(np.float32), chunk=16)
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "1", 10.0), shell.astype(np.uint8))
    shared = [f"segment.model={model}", "output.chunk=16", "segment.block_voxels=30000", "segment.scores=float16"]
    given = [*shared, "separate.segmentation=membrane:alice/1", "measure.picks=none"]
    for overrides, stages in ((shared, ["segment"]), (given, None)):
        settings = load_settings(None, overrides)
        todo = plan(project, settings, STAGES, stages=stages)
        outcomes = execute_plan(project, settings, todo, InProcessRunner(), STAGES)
        assert {outcome.state for outcome in outcomes} == {"done"}, [o.line() for o in outcomes]
    return folder / "p", shared


@pytest.fixture
def project(made: tuple[Path, list[str]], tmp_path: Path) -> Project:
    """Return a copy of the project with the same times of modification."""
    folder = tmp_path / "p"
    shutil.copytree(made[0], folder, copy_function=shutil.copy2)
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"overlay_root": str(folder)}))
    return open_project(str(config))


def bad_outputs(project: Project, **how: bool) -> dict[str, str]:
    """Return the outputs that are not ok, and their states."""
    findings = verify(project, open_tables(project), USER, **how)
    return {finding.output: finding.state for finding in findings if finding.state != "ok"}


def files_of(project: Project, pattern: str) -> list[Path]:
    return sorted(path for path in Path(project.root_url).glob(pattern) if path.is_file())


def orphans(project: Project, **how: float) -> set[tuple[str, str]]:
    return {(item.kind, item.name) for item in find_orphans(project, open_tables(project), USER, **how)}


def test_after_a_run_all_outputs_are_ok_and_none_is_an_orphan(project: Project) -> None:
    findings = verify(project, open_tables(project), USER)
    assert {finding.state for finding in findings} == {"ok"}
    stages = {finding.receipt.split("/")[0] for finding in findings}
    assert stages == {"segment", "scores", "separate", "mesh", "measure"}
    assert bad_outputs(project, content=True) == {}
    assert orphans(project, hours=0.0) == set()


def change_a_byte(path: Path) -> None:
    """Change one byte and keep size and time, like a failing disk."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


MASK = "ExperimentRuns/TS_1/Segmentations/10.000_membrain_*_membrane.zarr/0/1/1/1"
SCORES = "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp_membrane-score-*_features.zarr/0/0/1/1"
MESH = "ExperimentRuns/TS_1/Meshes/membrain_*.glb"
ROWS = "membrain-cloud/tables/membranes/dataset=local/TS_1*.parquet"


@pytest.mark.parametrize("pattern", [MASK, MASK.replace("/0/1/1/1", "/1/0/0/0"), SCORES, MESH, ROWS])
@pytest.mark.parametrize(
    ("damage", "state"), [(Path.unlink, "missing or torn"), (cut, "torn"), (change_a_byte, "changed")]
)
def test_damage_is_found_and_repaired_by_the_next_run(
    project: Project, made: tuple[Path, list[str]], pattern: str, damage: Callable[[Path], None], state: str
) -> None:
    (path,) = files_of(project, pattern)
    before = path.read_bytes()
    damage(path)
    bad = bad_outputs(project, content=True)
    assert len(bad) == 1, bad
    assert next(iter(bad.values())) in state
    if state == "changed":
        assert bad_outputs(project) == {}, "sizes and times are the same"
    bad_outputs(project, content=True, forget_missing=True)
    given = ["separate.segmentation=membrane:alice/1", "measure.picks=none"] if pattern in (MESH, ROWS) else []
    settings = load_settings(None, [*made[1], *given])
    stages = None if given else ["segment"]
    todo = plan(project, settings, STAGES, stages=stages)
    assert {task.run for task in todo.tasks} == {"TS_1"}
    execute_plan(project, settings, todo, InProcessRunner(), STAGES)
    assert path.read_bytes() == before
    assert bad_outputs(project, content=True) == {}


def test_a_copied_project_is_changed_unless_content_is_compared(project: Project) -> None:
    for path in files_of(project, "ExperimentRuns/*/Meshes/*.glb"):
        os.utime(path)
    assert set(bad_outputs(project).values()) == {"changed"}
    assert bad_outputs(project, content=True) == {}


def test_objects_that_were_not_written_with_an_output_are_foreign(project: Project) -> None:
    (chunk,) = files_of(project, MASK)
    chunk.with_name("9").write_bytes(b"unknown")
    project.write_picks(ObjectRef("TS_2", "membrane", USER, "byhand"), Picks(np.ones((1, 3))))
    project.write_picks(ObjectRef("TS_2", "membrane", "bob", "1"), Picks(np.ones((1, 3))))
    assert sorted(bad_outputs(project).values()) == ["foreign", "foreign"]
    assert "ExperimentRuns/TS_2/Picks/membrain_byhand_membrane.json" in bad_outputs(project)


def test_clean_removes_orphans_and_nothing_else(project: Project) -> None:
    root, tables = Path(project.root_url), open_tables(project)
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    orphan = SegmentationRef("TS_1", "membrane", USER, "0badc0de", 10.0)
    project.write_segmentation(orphan, np.ones(SHAPE, np.uint8))
    feature = FeaturesRef("TS_1", "wbp", 10.0, "membrane-score-0badc0de")
    project.create_features(feature, project.grid(orphan), "float16")
    for name in ("membrane-score-mine", "other"):
        project.create_features(FeaturesRef("TS_1", "wbp", 10.0, name), project.grid(orphan), "float16")
    project.write_picks(ObjectRef("TS_1", "membrane", USER, "0badc0de"), Picks(np.ones((1, 3))))
    project.write_picks(ObjectRef("TS_1", "membrane", "bob", "0badc0de"), Picks(np.ones((1, 3))))
    tables.write_part("membranes", "local", "TS_9/wbp@10.000", [])
    project.receipts.write("segment/membrain_1/TS_1/membrane@10.000/complete", {"digest": "old"})
    (root / "membrain-cloud/receipts/segment/empty-0123456789abcdef.json").touch()
    (root / "ExperimentRuns/.doomed.zarr.0123456789ab.tmp").mkdir()
    (root / "ExperimentRuns/TS_1/Meshes/.x.glb.0123456789ab.tmp").write_bytes(b"half")
    (root / "ExperimentRuns/TS_1/Meshes/.unknown.tmp").write_bytes(b"not ours")
    expected = {
        ("annotation", orphan.path),
        ("annotation", "ExperimentRuns/TS_1/Picks/membrain_0badc0de_membrane.json"),
        ("features", feature.path),
        ("table part", "membranes/dataset=local/TS_9%2Fwbp@10.000.parquet"),
        ("receipt", "membrain-cloud/receipts/segment/membrain_1/TS_1/membrane@10.000/complete.json"),
        ("receipt", "membrain-cloud/receipts/segment/empty-0123456789abcdef.json"),
    }
    assert orphans(project) == expected, "temporary files are too young"
    for name in ("ExperimentRuns/.doomed.zarr.0123456789ab.tmp", "ExperimentRuns/TS_1/Meshes/.x.glb.0123456789ab.tmp"):
        os.utime(root / name, (time.time() - 7200, time.time() - 7200))
        expected.add(("temporary file", name))
    assert orphans(project) == expected
    remove_orphans(project, tables, find_orphans(project, tables, USER))
    assert orphans(project, hours=0.0) == set()
    assert {path: path.read_bytes() for path in kept} == kept
    assert (root / "ExperimentRuns/TS_1/Meshes/.unknown.tmp").exists()
    assert (root / "ExperimentRuns/TS_1/Picks/bob_0badc0de_membrane.json").exists()
    assert {kind.feature_type for kind in project.features(TomogramRef("TS_1", "wbp", 10.0))} > {"other"}


def test_outputs_in_work_are_left_alone(project: Project) -> None:
    """A lease beside the receipts covers the output, and was renewed lately by the store's clock."""
    orphan = SegmentationRef("TS_1", "membrane", USER, "0badc0de", 10.0)
    project.write_segmentation(orphan, np.ones(SHAPE, np.uint8))
    lease = Path(project.root_url) / "membrain-cloud/leases/segment/membrain_0badc0de/TS_1/membrane@10.000/whole.json"
    lease.parent.mkdir(parents=True)
    lease.write_text("{}")
    assert orphans(project) == set()
    os.utime(lease, (time.time() - 3600, time.time() - 3600))
    stale = ("lease", "membrain-cloud/leases/segment/membrain_0badc0de/TS_1/membrane@10.000/whole.json")
    assert orphans(project) == {("annotation", orphan.path), stale}


@pytest.mark.parametrize("store", ["project", "tables"])
def test_a_lease_whose_task_is_done_is_stale(project: Project, store: str) -> None:
    """`clean` finds it, whoever holds it, and a run that has nothing to do removes it and no other lease."""
    tables = open_tables(project)
    receipts, stage = (project.receipts, "mesh") if store == "project" else (tables.receipts, "measure")
    (name, receipt), *_ = [(n, r) for n, r in receipts.read_all(sorted(receipts.names(stage))) if r is not None]
    address, leases = name.rpartition("/")[0], receipts.beside("leases")
    holder = {"token": "t", "count": 3, "process": "another-machine/1/1.0", "facts": {"digest": receipt["digest"]}}
    other = {**holder, "facts": {"digest": "0" * 64}}
    leases.write(f"{address}/whole.json", json.dumps(holder).encode())
    leases.write(f"{address}/other.json", json.dumps(other).encode())
    attempts = project.receipts.sibling("attempts")
    attempts.write(f"{address}/whole", {"digest": receipt["digest"]})
    attempts.write(f"{address}/other", {"digest": "0" * 64})
    folder = "_leases" if store == "tables" else "membrain-cloud/leases"
    assert [name for kind, name in orphans(project) if kind == "lease"] == [f"{folder}/{address}/whole.json"]
    settings = load_settings(None, ["separate.segmentation=membrane:alice/1", "measure.picks=none"])
    todo = plan(project, settings, STAGES)
    assert not todo.tasks
    execute_plan(project, settings, todo, InProcessRunner(), STAGES)
    assert set(leases.listing()) == {f"{address}/other.json"}
    assert attempts.names() == {f"{address}/other"}


def test_a_wrong_clock_on_this_machine_changes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are measured by the store's clock alone."""
    young = Path(project.root_url) / "ExperimentRuns/.x.zarr.0123456789ab.tmp"
    young.mkdir()
    now = time.time()
    for skew in (-1e6, 1e6):
        monkeypatch.setattr(time, "time", lambda skew=skew: now + skew)
        assert orphans(project) == set()
        assert {kind for kind, _ in orphans(project, hours=0.0)} == {"temporary file"}


def test_a_mask_without_receipt_is_distinguished_from_its_instances(project: Project) -> None:
    """In a named session both have the same name: then the receipts are read."""
    receipts = [name for name in project.receipts.names() if name.startswith("separate/")]
    (instances,) = [ref for ref in project.segmentations("TS_1") if ref.instance]
    mask = SegmentationRef("TS_1", "membrane", USER, instances.session, 10.0)
    project.write_segmentation(mask, np.ones(SHAPE, np.uint8))
    assert len(receipts) == 2
    assert orphans(project) == {("annotation", mask.path)}


def test_tables_without_receipts_are_left_alone_as_a_copy(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(Path(project.root_url) / "membrain-cloud/tables", copy)
    shutil.rmtree(copy / "_receipts")
    listed = CliRunner().invoke(main, ["clean", project.config, "--tables", str(copy), "--json"])
    assert json.loads(listed.stdout)["found"] == []


def test_verify_and_clean_from_the_command_line(project: Project) -> None:
    assert CliRunner().invoke(main, ["verify", project.config, "--content"]).exit_code == 0
    (mesh,) = files_of(project, MESH)
    cut(mesh)
    done = CliRunner().invoke(main, ["verify", project.config])
    assert done.exit_code == 1
    assert "torn" in done.stdout
    assert "--forget-missing" in done.stderr
    rows = json.loads(CliRunner().invoke(main, ["verify", project.config, "--forget-missing", "--json"]).stdout)
    assert [row["state"] for row in rows].count("torn") == 1
    listed = CliRunner().invoke(main, ["clean", project.config, "--json"])
    assert [row["name"] for row in json.loads(listed.stdout)["found"]] == [str(mesh.relative_to(project.root_url))]
    assert CliRunner().invoke(main, ["clean", project.config, "--yes"]).exit_code == 0
    assert not mesh.exists()

"""Runs on stores that fail: transient errors are retried, lasting ones are reported with the address, none is zeros."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from standins.fault_proxy import FaultProxy, Faults

from membrain_cloud.errors import ChunkError, MembrainCloudError, StorageError, TransientError
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.execution.execute_task import execute_task
from membrain_cloud.pipeline.maintenance.verify import verify
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.project import USER, Project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import TomogramRef
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Outcome, Task

pytest.importorskip("s3fs")
SHAPE = (16, 24, 28)
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
# Which requests fail depends on the seed and on the names of the buckets, which are those of the tests.
MANY = Faults(
    rates={"503": 0.08, "500": 0.08, "reset": 0.06, "reset_after": 0.04, "truncate": 0.06, "latency": 0.05}, seed=1
)


@pytest.fixture
def bucket(proxy: FaultProxy, tmp_path: Path) -> Project:
    """Return a project in a bucket of its own, with two tomograms in chunks of 16."""
    proxy.calm()
    name = tmp_path.name.replace("_", "-").lower()
    options = {"key": "x", "secret": "x", "endpoint_url": proxy.url}
    Files(f"s3://{name}", options)._fs.mkdir(name)
    objects = [{"name": "membrane", "is_particle": False}, {"name": "voxels", "is_particle": True}]
    config = tmp_path / "config.json"
    overlay = {"overlay_root": f"s3://{name}/one", "overlay_fs_args": options}
    config.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": objects, **overlay}))
    project = CopickProject.open(str(config))
    for run in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), VALUES, chunk=16)
    return project


def run(project: Project, registry: Registry, *runs: str) -> list[Outcome]:
    return execute_plan(
        project, Settings(), plan(project, Settings(), registry, runs=runs), InProcessRunner(), registry
    )


def results(project: Project) -> dict[str, bytes]:
    return {
        name: project.files.read(f"ExperimentRuns/{name}")
        for name in project.files.listing("ExperimentRuns")
        if "VoxelSpacing" not in name
    }


def test_transient_errors_do_not_change_the_results(bucket: Project, proxy: FaultProxy, registry: Registry) -> None:
    assert {outcome.state for outcome in run(bucket, registry, "TS_1")} == {"done"}
    undisturbed = results(bucket)
    for name in (*(f"ExperimentRuns/{name}" for name in undisturbed), "membrain-cloud"):
        bucket.files.remove(name)
    proxy.faults = MANY
    outcomes = run(bucket, registry, "TS_1")
    met = dict(proxy.met)
    proxy.calm()
    assert [outcome.line() for outcome in outcomes if outcome.state != "done"] == []
    assert results(bucket) == undisturbed
    assert set(met) >= {"503", "500", "reset", "truncate"}, met


@pytest.mark.parametrize("kind", ["503", "500", "reset", "truncate", "403", "404"])
def test_a_lasting_error_has_the_address(bucket: Project, proxy: FaultProxy, kind: str) -> None:
    end = f"{TOMOGRAM.path}/0/0/1/1"
    proxy.rule(end, kind, method="GET")
    proxy.requests.clear()
    with pytest.raises((TransientError, ChunkError)) as caught:
        bucket.read_density(TOMOGRAM)
    assert "0/0/1/1" in caught.value.message.replace("chunk 0/1/1 of", "0/0/1/1")
    assert bucket.root_url in caught.value.message
    assert isinstance(caught.value, ChunkError) == (kind in ("403", "404"))
    assert sum(request.endswith(end) for request in proxy.requests) <= 6
    proxy.calm()
    np.testing.assert_array_equal(bucket.read_density(TOMOGRAM), VALUES)


@pytest.mark.parametrize("kind", ["503", "500", "reset", "reset_after", "truncate", "404"])
def test_a_request_is_repeated_after_a_transient_error(bucket: Project, proxy: FaultProxy, kind: str) -> None:
    proxy.rule(f"{TOMOGRAM.path}/0/0/1/1", kind, times=2, method="GET")
    np.testing.assert_array_equal(bucket.read_density(TOMOGRAM), VALUES)
    assert proxy.met[kind] == 2


def test_a_write_whose_answer_was_lost_is_repeated(bucket: Project, proxy: FaultProxy) -> None:
    proxy.rule("/receipts/x.json", "reset_after", times=2, method="PUT")
    bucket.receipts.write("x", {"a": 1})
    assert bucket.receipts.read("x") == {"a": 1}
    proxy.rule("/claim", "reset_after", times=1, method="PUT")
    assert bucket.files.create("claim", b"mine"), "the answer was lost, the object is ours"
    assert not bucket.files.create("claim", b"yours")


def test_missing_permission_to_write_is_reported_at_once(
    bucket: Project, proxy: FaultProxy, registry: Registry
) -> None:
    proxy.rule("", "403", method="PUT")
    for check in (bucket.check_writable, open_tables(bucket).check_writable):
        with pytest.raises(StorageError, match="cannot be written") as caught:
            check()
        assert "writable overlay" in caught.value.next_step
    with pytest.raises(StorageError, match="cannot be written"):
        run(bucket, registry)
    proxy.requests.clear()
    outcome = execute_task(
        plan(bucket, Settings(), registry).tasks[0], registry, sleep=lambda _: pytest.fail("tried again")
    )
    assert outcome.state == "failed"
    assert "no permission" in outcome.message + outcome.next_step
    assert sum(request.startswith("PUT") for request in proxy.requests) == 1
    proxy.calm()
    bucket.check_writable()


def test_a_bucket_that_vanishes_fails_every_request(bucket: Project, proxy: FaultProxy, registry: Registry) -> None:
    made = plan(bucket, Settings(), registry)
    fs, name = bucket.files._fs, bucket.root_url.split("/")[2]
    fs.rm(name, recursive=True)
    for verb in (
        lambda: bucket.read_density(TOMOGRAM),
        bucket.runs,
        bucket.receipts.names,
        lambda: bucket.receipts.write("x", {}),
    ):
        with pytest.raises(MembrainCloudError, match=f"{name}.*no such bucket"):
            verb()
    outcomes = [execute_task(task, registry, sleep=lambda _: pytest.fail("tried again")) for task in made.tasks[:2]]
    assert {outcome.state for outcome in outcomes} == {"failed"}
    assert all("no such bucket" in outcome.message for outcome in outcomes)


def test_a_bucket_that_vanishes_during_a_run_ends_it_in_order(
    bucket: Project, proxy: FaultProxy, registry: Registry
) -> None:
    """Done tasks are reported as done, the others as failed or blocked with the cause; the run ends."""
    name = bucket.root_url.split("/")[2]
    ended: list[str] = []

    def observe(event: str, task: Task, outcome: Outcome | None) -> None:
        ended.extend([task.key] if event == "finished" else [])
        if event == "finished" and len(ended) == 1:
            bucket.files.filesystem.rm(name, recursive=True)

    made = plan(bucket, Settings(), registry)
    outcomes = execute_plan(bucket, Settings(), made, InProcessRunner(), registry, observe)
    assert sorted(ended) == sorted(task.key for task in made.tasks)
    states = [outcome.state for outcome in outcomes]
    assert states.count("done") == 1
    assert set(states) == {"done", "failed", "blocked"}
    assert all("no such bucket" in outcome.message for outcome in outcomes if outcome.state == "failed")
    bucket.files.filesystem.mkdir(name)
    for run_name in ("TS_1", "TS_2"):
        bucket.write_tomogram(TomogramRef(run_name, "wbp", 10.0), VALUES, chunk=16)
    assert {outcome.state for outcome in run(bucket, registry)} == {"done"}, "lost results are made again"


def test_verify_reads_receipts_listings_and_metadata_only(
    bucket: Project, proxy: FaultProxy, registry: Registry
) -> None:
    """Presence, sizes and tags come from listings, however many objects an output has."""
    assert {outcome.state for outcome in run(bucket, registry)} == {"done"}
    tables = open_tables(bucket)
    proxy.requests.clear()
    findings = verify(bucket, tables, USER)
    assert [finding.state for finding in findings] == ["ok"] * 4
    asked = [request for request in proxy.requests if "/ExperimentRuns/" in request]
    names = Counter(request.rpartition("/")[2] for request in asked)
    assert names == {".zarray": 2, ".zattrs": 2, "Meshes": 2}, "of each mask; and that there is no folder of meshes"
    read = [request for request in proxy.requests if "/receipts/" in request]
    assert len(read) == 4
    (mask, *_) = [name for name in results(bucket) if name.endswith("/0/0/0/0")]
    bucket.files.remove_object(f"ExperimentRuns/{mask}")
    assert [finding.state for finding in verify(bucket, tables, USER) if finding.state != "ok"] == ["torn"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 440 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    command = ["mount", "-t", "tmpfs", "-o", "size=440k", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_tasks_until_there_is_space(project: Project, registry: Registry, small_disk: Path) -> None:
    """Results go to a nearly full disk; after a file is removed the next run completes them."""
    settings = json.loads(Path(project.config).read_text())
    settings |= {"static_root": project.root_url, "overlay_root": str(small_disk)}
    config = small_disk.parent / "small.json"
    config.write_text(json.dumps(settings))
    small = CopickProject.open(str(config))
    execute_plan(small, Settings(), plan(small, Settings(), registry, runs=["TS_1"]), InProcessRunner(), registry)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"1" * max(0, free - 8192))
    outcomes = run(small, registry)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert failed
    assert all("disk is full" in outcome.next_step for outcome in failed)
    filler.unlink()
    assert {outcome.state for outcome in run(small, registry)} == {"done", "skipped"}
    assert not [name for _, _, names in os.walk(small_disk) for name in names if name.endswith(".tmp")]

"""Processes are killed and the store fails throughout: the results equal those of an undisturbed run, made once.

Tomograms on S3 (moto) behind a proxy that answers 503, 500, resets, truncates bodies and is slow; a scheduler,
workers and the driver as processes. Workers and their nannies get SIGKILL and SIGTERM; the scheduler and the driver
are each killed once and started again.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from standins.chaos_cluster import (
    DEFAULT_STAGES,
    Cluster,
    StoreLog,
    make_project,
    receipt_names,
    results,
    start,
    tiny_models,
)
from standins.fault_proxy import FaultProxy, Faults

from membrain_cloud.pipeline.maintenance.clean import find_orphans
from membrain_cloud.pipeline.maintenance.verify import verify
from membrain_cloud.store.projects.project import USER, Project
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from membrain_cloud.store.volumes.ome_zarr import OmeVersion

pytest.importorskip("s3fs")
GIVEN = ["segment.mode=exact", "segment.block_voxels=40000", "mesh.vertex_area_angstrom2=1000", "measure.simulations=0"]
# Processes are killed at random here: no task may be given up for it, however often it happens to be the same one.
GIVEN += ["run.deaths=99", "run.losses=99", "run.requeues=9"]
FAULTS = {"503": 0.02, "500": 0.02, "reset": 0.01, "reset_after": 0.005, "truncate": 0.01, "latency": 0.02}


@pytest.mark.parametrize(
    ("runs", "n_kills", "seed", "version"),
    [
        pytest.param(6, 2, 1, "0.4", id="small"),
        pytest.param(6, 2, 3, "0.5", id="sharded", marks=pytest.mark.slow),
        pytest.param(40, 16, 2, "0.4", id="whole", marks=pytest.mark.slow),
    ],
)
def test_chaos_changes_nothing(
    proxy: FaultProxy, tmp_path: Path, runs: int, n_kills: int, seed: int, version: OmeVersion
) -> None:
    """The seed decides which process is killed when and how, and which requests fail."""
    given = [*GIVEN, *tiny_models(tmp_path), f"output.format={version}"]
    given = [word for line in given for word in ("--set", line)]
    direct, name = f"http://127.0.0.1:{proxy.port}", f"{runs}-{version}"
    alone = make_project(tmp_path, f"alone-{name}", direct, runs, tall_every=5, version=version)
    project = make_project(tmp_path, f"chaos-{name}", proxy.url, runs, tall_every=5, version=version)
    undisturbed = start("membrain_cloud", "run", alone.config, *given, "--in-process", errors=tmp_path / "alone.err")
    log_of_store = StoreLog()
    proxy.witness, proxy.faults = log_of_store.note, Faults(rates=FAULTS, seed=seed)
    cluster = Cluster(project.config, given, tmp_path / "log.jsonl", workers=2)
    try:
        ended = kill_processes(cluster, log_of_store, n_kills, random.Random(seed), tasks=DEFAULT_STAGES * runs)
    finally:
        cluster.end()
        met = Counter(proxy.met)
        proxy.calm()
        undisturbed.wait(1800)
    context = f"seed {seed}; {met}; " + (tmp_path / "log.err").read_text()[-3000:]
    assert undisturbed.returncode == 0, (tmp_path / "alone.err").read_text()[-3000:]
    assert ended, context
    assert cluster.driver.returncode == 0, context
    assert min(met[kind] for kind in ("503", "500", "reset", "latency")) > 0, context
    assert results(project) == results(alone), context
    assert receipt_names(project) == receipt_names(alone), context
    check_that_nothing_is_left(project)
    check_that_no_mask_is_empty(project, runs)
    check_that_tasks_were_done_once(log_of_store, tmp_path / "log.jsonl", context)


def kill_processes(cluster: Cluster, log_of_store: StoreLog, n_kills: int, chance: random.Random, tasks: int) -> bool:
    """Kill processes, spread over the run's progress, until the driver ends. Return False when it takes too long."""
    deadline = time.monotonic() + 120 + 30 * tasks
    kills: list[Callable[[], None]] = [lambda: cluster.kill_a_worker(chance)] * n_kills
    kills += [cluster.kill_the_scheduler, cluster.kill_the_driver]
    chance.shuffle(kills)
    total = len(kills)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        cluster.restart_dead_processes()
        if kills and len(log_of_store.done) / 2 >= (total - len(kills) + 0.5) * tasks / (total + 1):
            kills.pop()()
        if cluster.driver.poll() is not None:
            return not kills
    return False


def check_that_nothing_is_left(project: Project) -> None:
    """No lease, crash record, failure or orphan is left, and every byte is as it was written."""
    folders = ("/leases/", "/_leases/", "/attempts/", "/failures/")
    assert [name for name in project.files.listing() if any(part in f"/{name}" for part in folders)] == []
    tables = open_tables(project)
    assert [finding for finding in verify(project, tables, USER, content=True) if finding.state != "ok"] == []
    assert find_orphans(project, tables, USER, hours=0.0) == []


def check_that_no_mask_is_empty(project: Project, runs: int) -> None:
    """Every tomogram has a membrane of a vesicle's size, and particles on it."""
    tables = open_tables(project)
    membranes, particles = tables.read("membranes").to_pylist(), tables.read("particles").to_pylist()
    assert len({row["run_name"] for row in particles}) == len({row["run_name"] for row in membranes}) == runs
    for run in project.runs():
        mask = next(ref for ref in project.segmentations(run) if ref.user == USER and not ref.instance)
        assert 1000 < (project.read_labels(mask) > 0).sum() < 10_000


def check_that_tasks_were_done_once(log_of_store: StoreLog, log: Path, context: str) -> None:
    """Check that a task starts once, and again only after its process died or the store failed too often."""
    lines = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):  # the driver was killed in the middle of it
            lines.append(json.loads(line))
    requeued = Counter(
        f"{line['stage']}/{line['run']}/{line['part']}"
        for line in lines
        if line["event"] == "task_again" and line["state"] == "failed"
    )
    assert log_of_store.begun.keys() == log_of_store.done & log_of_store.begun.keys(), context
    for work, times in log_of_store.handed_on.items():
        stage, _, run, *_, part = work.split("/")
        assert times <= requeued[f"{stage}/{run}/{part}"], (
            f"{work} was started {log_of_store.begun[work]} times; {context}"
        )
    done = [(line["run"], line["stage"], line["part"]) for line in lines if line.get("state") == "done"]
    assert len(done) == len(set(done)), f"a task was done twice; {context}"

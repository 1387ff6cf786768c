"""`membrain-cloud run`: stopped by a signal, observed by metrics and logs, beside another run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from standins.command_line import call, call_json

from membrain_cloud.cli import main
from membrain_cloud.cli.commands.run import ClusterOptions
from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.execute_task import execute_task
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES as STAGES_KNOWN
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef
from membrain_cloud.store.run_state.leases import Leases

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

RUNS = 4
STAGES = ["--stages", "separate,mesh", "--set", "separate.segmentation=membrane:alice/3@10.0"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None)])
    z, y, x = np.indices((32, 36, 40))
    distance = np.sqrt((z - 16) ** 2 + (y - 18) ** 2 + (x - 20) ** 2)
    for number in range(RUNS):
        shell = (abs(distance - 8.0 - number) < 2).astype(np.uint8)
        project.write_segmentation(SegmentationRef(f"TS_{number}", "membrane", "alice", "3", 10.0), shell)
    return project


def start(project: Project, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "membrain_cloud", "run", project.config, *STAGES, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return output


def receipts(project: Project) -> list[Path]:
    return sorted((Path(project.root_url) / "membrain-cloud" / "receipts").rglob("complete-*.json"))


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_stopped_run_ends_in_order_and_the_next_one_continues(project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    process = start(project, "--in-process", "--log-file", str(log))
    while not receipts(project) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finish(process, 3)
    done = len(receipts(project))
    assert 0 < done < 2 * RUNS
    assert not list((Path(project.root_url) / "membrain-cloud" / "leases").rglob("*.json"))
    finish(start(project, "--in-process", "--log-file", str(log)))
    assert len(receipts(project)) == 2 * RUNS
    ended = [line for line in lines(log) if line["event"] == "task_finished"]
    assert len(ended) == len({(line["run"], line["stage"]) for line in ended}) == 2 * RUNS
    needed = {"time", "level", "event", "run_id", "run", "tomogram", "stage", "part", "attempt", "worker", "seconds"}
    assert all(needed <= set(line) for line in ended)


def test_two_runs_share_the_work(project: Project, tmp_path: Path) -> None:
    logs = [tmp_path / f"{name}.jsonl" for name in "ab"]
    both = [start(project, "--in-process", "--log-file", str(log)) for log in logs]
    for process in both:
        finish(process)
    ended = [line for log in logs for line in lines(log) if line["event"] == "task_finished"]
    done = [(line["run"], line["stage"]) for line in ended if line["state"] == "done"]
    assert len(done) == len(set(done)) == 2 * RUNS
    assert len(receipts(project)) == 2 * RUNS


def test_status_finds_another_run_in_the_store(project: Project) -> None:
    settings = load_settings(None, [STAGES[3]])
    run_plan = plan(project, settings, STAGES_KNOWN, stages=["separate", "mesh"])
    for task in run_plan.tasks[:3]:
        execute_task(task, STAGES_KNOWN)
    leases = Leases(project.receipts.beside("leases"))
    facts = {"run": "TS_3", "stage": "separate", "part": "whole", "worker": "tcp://10.0.0.7:4000", "alone": False}
    lease, _ = leases.claim(f"{run_plan.tasks[-2].address}/whole", "other", facts)
    assert lease is not None
    result = CliRunner().invoke(main, ["status", project.config, *STAGES, "--json"])
    status = json.loads(result.stdout)
    assert [(row["run"], row["stage"], row["worker"]) for row in status["at_work"]] == [
        ("TS_3", "separate", "tcp://10.0.0.7:4000")
    ]
    assert status["left"] == []
    assert status["tasks_per_hour"] > 0
    assert status["eta_seconds"] == pytest.approx(3600 * 5 / status["tasks_per_hour"])
    text = CliRunner().invoke(main, ["status", project.config, *STAGES]).output
    assert "tasks an hour" in text
    lease.release()
    assert json.loads(CliRunner().invoke(main, ["status", project.config, *STAGES, "--json"]).stdout)["at_work"] == []


def test_metrics_are_served_during_a_run(project: Project, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(
        project, "--workers", "1", "--metrics-port", str(port), "--dask-report", str(tmp_path / "dask.html")
    )
    seen = ""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen = answer.read().decode()
        except OSError:
            time.sleep(0.05)
    finish(process)
    for name in (
        'membrain_tomograms{state="running"}',
        'membrain_tasks_total{outcome="done",stage="separate"}',
        'membrain_task_seconds_bucket{le="1.0",stage="separate"}',
        'membrain_voxels_total{stage="separate"}',
        'membrain_bytes_read_total{stage="separate"}',
        'membrain_bytes_written_total{stage="separate"}',
        'membrain_workers{kind="cpu"} 1.0',
        "membrain_worker_deaths_total",
        "membrain_gpu_busy_seconds_total",
        "membrain_gpu_busy_ratio",
        'membrain_tasks_in_flight{kind="cpu"}',
        'membrain_tasks_pending{kind="gpu"}',
        "membrain_eta_seconds",
        "membrain_last_progress_timestamp_seconds",
    ):
        assert name in seen, name
    assert "Dask Performance Report" in (tmp_path / "dask.html").read_text()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--scale", "gpu=group"], "KIND=WORKERGROUP:MAX"),
        (["--in-process", "--dask-report", "x.html"], "Dask's report needs a Dask cluster"),
        (["--in-process", "--log-file", "/no/such/folder/log"], "log file"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "exclude each other"),
    ],
)
def test_bad_options(project: Project, options: list[str], cause: str) -> None:
    result = CliRunner().invoke(main, ["run", project.config, *STAGES, *options])
    assert result.exit_code == 2
    assert cause in result.output


def cluster(scheduler: str | None, *scale: str) -> ClusterOptions:
    return ClusterOptions(
        workers=None, scheduler=scheduler, in_process=False, scale=scale, namespace="here", expect=(), wait=None
    )


def test_worker_groups_need_a_scheduler() -> None:
    assert cluster(None).scaler() is None
    with pytest.raises(UsageError, match="--scale is for the worker groups"):
        cluster(None, "gpu=membrain-gpu:4").scaler()


def test_masks_and_picks_become_tables_once(vesicles: Project, from_alice: list[str]) -> None:
    first = call_json("run", vesicles.config, *from_alice, "--in-process")
    assert first["summary"] == {"blocked": 0, "done": 6, "failed": 0, "skipped": 0}
    second = call_json("run", vesicles.config, *from_alice, "--in-process")
    assert second["summary"]["skipped"] == 6
    rows = {entry["table"]: entry["rows"] for entry in call_json("tables", "list", vesicles.config)}
    assert rows["membranes"] == 2
    assert rows["particles"] == 12
    status = call_json("status", vesicles.config, *from_alice)
    assert status["runs"]["TS_2"] == {"separate": "done", "mesh": "done", "measure": "done"}
    assert call("run", vesicles.config, *from_alice, "--in-process").exit_code == 0

"""All processes get SIGKILL at any moment: later runs end with the results of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Picks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.store.projects.project import Project

RUNS = 3
GIVEN = ["--stages", "separate,mesh,measure", "--set", "separate.segmentation=membrane:alice/3@10.0"]
GIVEN += ["--set", "measure.picks=psii:expert/1"]


def make_project(folder: Path) -> Project:
    project = create_project(str(folder), objects=[("membrane", False, None), ("psii", True, None)])
    z, y, x = np.indices((32, 36, 40))
    distance = np.sqrt((z - 16) ** 2 + (y - 18) ** 2 + (x - 20) ** 2)
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    for number in range(RUNS):
        radius, run = 8.0 + number, f"TS_{number}"
        shell = (abs(distance - radius) < 2).astype(np.uint8)
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "3", 10.0), shell)
        around = np.stack([20 + radius * np.cos(angles), 18 + radius * np.sin(angles), 16 + 0 * angles], 1)
        project.write_picks(ObjectRef(run, "psii", "expert", "1"), Picks(around * 10.0))
    return project


def start(project: Project, *how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "membrain_cloud", "run", project.config, *GIVEN, *how]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints.decode()


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver, then the workers that are left of its session."""
    os.kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def contents(project: Project) -> dict[str, bytes]:
    """Return the bytes of all results: tables, meshes, instances (receipts contain hosts and times: left out)."""
    root = Path(project.root_url)
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "config.json"]
    names = {str(path.relative_to(root)): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(names.items()) if not _is_volatile(name)}


def _is_volatile(name: str) -> bool:
    """Return whether a file is a receipt, lease or crash record, or a temporary file of an interrupted write."""
    hidden = any(part.startswith(".") and not part.startswith(".z") for part in name.split("/"))
    return hidden or any(kind in name for kind in ("receipts", "leases", "attempts"))


def receipts(project: Project) -> dict[str, bytes]:
    root = Path(project.root_url) / "membrain-cloud"
    files = [path for path in sorted(root.rglob("*.json")) if path.is_file() and "receipts" in str(path)]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("how", "moments"),
    [
        pytest.param(["--workers", "2"], range(1, 3 * RUNS, 2), marks=pytest.mark.slow, id="dask"),
        pytest.param(["--in-process"], (2, 6), id="in_process"),
        pytest.param(
            ["--in-process", "--set", "output.format=0.5"], (2, 6), marks=pytest.mark.slow, id="in_process_sharded"
        ),
    ],
)
def test_repeated_kills_do_not_change_the_results(tmp_path: Path, how: list[str], moments: Sequence[int]) -> None:
    alone = make_project(tmp_path / "alone")
    finish(start(alone, *how))
    killed = make_project(tmp_path / "killed")
    for wanted in moments:
        process = start(killed, *how)
        while len(receipts(killed)) < wanted and process.poll() is None:
            time.sleep(0.02)
        kill_everything(process)
        time.sleep(1.0)
    before = receipts(killed)
    assert before
    finish(start(killed, *how))
    after = receipts(killed)
    assert len(after) == 3 * RUNS
    assert {name: after[name] for name in before} == before, "a finished task was done again"
    assert contents(killed) == contents(alone)

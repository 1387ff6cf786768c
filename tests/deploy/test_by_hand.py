"""The image and the rehearsals, which take minutes and need further programs; the audit's exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from render import ROOT


@pytest.mark.slow
def test_the_rehearsed_run_survives_lost_workers_and_scheduler(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "deploy" / "rehearsal.py"), "--folder", str(tmp_path / "rehearsal"), "--keep"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_real_api_server_and_the_operator_accept_the_chart() -> None:
    program = [sys.executable, str(ROOT / "deploy" / "rehearsal_api.py")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PATH": path})
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_image_is_built_and_runs_the_demo(tmp_path: Path) -> None:
    missing = [name for name in ("buildah", "mmdebstrap", "unshare", "setpriv") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"NOT CHECKED: the image needs root and {', '.join(missing) or 'its tools'}")
    if shutil.disk_usage("/var/lib").free < 20 * 2**30:
        pytest.skip("NOT CHECKED: the image needs 20 GiB of free disk to be built")
    program = [str(ROOT / "deploy" / "build-image.sh"), "--base-from-debian", "--demo", str(tmp_path / "demo")]
    program += ["--tag", "localhost/membrain-cloud-test:cpu"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT)
    remove = ["buildah", "--storage-driver", os.environ.get("STORAGE_DRIVER", "vfs"), "rmi"]
    subprocess.run([*remove, "localhost/membrain-cloud-test:cpu"], capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert "ok: user 10001" in done.stdout


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "words"),
    [
        ("exit 0", [], 0, "no known vulnerability"),
        ("echo 'Name  Version ID        Fix'; echo 'zarr 2.18 GHSA-1 3'; exit 1", [], 1, "GHSA-1"),
        ("echo 'ConnectionError: api' >&2; exit 1", [], 0, "NOT AUDITED: ConnectionError: api"),
        ("echo 'ConnectionError: api' >&2; exit 1", ["--strict"], 1, "NOT AUDITED"),
    ],
)
def test_the_audit_distinguishes_vulnerabilities_from_no_network(
    tmp_path: Path, tool: str, arguments: list[str], code: int, words: str
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{tool}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "deploy" / "audit.sh"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PIP_AUDIT": str(program)},
    )
    assert done.returncode == code
    assert words in done.stdout + done.stderr

"""A key in the environment is written nowhere: not to the store, the report, logs, failures or tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project
from membrain_cloud.simulation.phantom import PhantomSettings

SECRET = "hunter2Seeded"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a small project of one simulated tomogram."""
    folder = tmp_path / "project"
    simulate_project(
        str(folder),
        [SimulatedTomogram("TS_1", 1, PhantomSettings(shape=(32, 64, 64), membranes=1))],
        particle="particle",
        processes=1,
        report=lambda _: None,
    )
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"overlay_fs_args": {"auto_mkdir": True}}))
    return config


def run(project: Path, *arguments: str) -> str:
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": f"{SECRET}-id",
        "AWS_SECRET_ACCESS_KEY": f"{SECRET}-key",
        "AWS_SESSION_TOKEN": f"{SECRET}-session",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "membrain_cloud", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=project.parent,
    )
    return done.stdout + done.stderr


def call(*arguments: str) -> str:
    """Run a command that only reads, without keys in the environment."""
    result = CliRunner().invoke(main, list(arguments))
    return f"{result.output}{result.exception!r}"


def test_a_key_in_the_environment_is_written_nowhere(project: Path) -> None:
    config = str(project)
    model = f"http://me:{SECRET}@127.0.0.1:9/m.ckpt?X-Amz-Signature={SECRET}"
    outputs = [
        run(project, "run", config, "--in-process", "--stages", "segment"),
        run(project, "run", config, "--in-process", "--set", f"segment.model={model}", "--debug"),
        call("plan", config, "--set", f"pick.model={model}#sha256={'0' * 64}", "--json", "--debug"),
        call("models", "verify", model, "--debug"),
        call("run", f"s3://me:{SECRET}@bucket/config.json", "--in-process", "--debug"),
        call("failures", config, "--debug"),
        call("report", config, "--output", str(project.with_name("report.html"))),
    ]
    assert "1 done" in outputs[0]
    assert any("127.0.0.1" in text for text in outputs), "no output names a URL, so nothing was tested"
    leaks = [text for text in outputs if SECRET in text]
    assert leaks == []
    written = [path for path in project.parent.rglob("*") if path.is_file()]
    assert any("receipts" in str(path) for path in written)
    assert project.with_name("report.html") in written
    assert [str(path) for path in written if SECRET.encode() in path.read_bytes()] == []


def test_a_model_from_a_url_leaves_no_key_in_its_receipt(project: Path, tmp_path: Path) -> None:
    """A run succeeds with a model that is served with a signature in its URL."""
    import http.server
    import threading
    from functools import partial

    import membrain_cloud

    folder = Path(membrain_cloud.__file__).parent / "models"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/membrain-cloud-small.safetensors?X-Amz-Signature={SECRET}"
    os.environ["MEMBRAIN_CLOUD_CACHE"] = str(tmp_path / "cache")
    try:
        arguments = ["--in-process", "--stages", "segment", "--set", f"segment.model={url}"]
        first = run(project, "run", str(project), *arguments)
        again = run(project, "run", str(project), *arguments)
    finally:
        server.shutdown()
        server.server_close()
        del os.environ["MEMBRAIN_CLOUD_CACHE"]
    assert "1 done" in first
    assert "1 skipped" in again
    assert SECRET not in first + again
    receipts = [path for path in project.parent.rglob("*.json") if "receipts" in str(path)]
    assert any("X-Amz-Signature=***" in path.read_text() for path in receipts)
    written = [path for path in project.parent.rglob("*") if path.is_file()]
    assert [str(path) for path in written if SECRET.encode() in path.read_bytes()] == []

"""Parts of the rehearsal: processes restarted like pods, certificates, the project, and the comparison of tables."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Pod:
    """One container: a process group that is restarted when it ends, unless its exit code is final.

    Parameters
    ----------
    name : str
        Name of the container, and of its log.
    command : sequence of str
        Its command line.
    environment : dict of str to str
        Its environment.
    log : Path
        Folder of the logs.
    retries : int, optional
        Number of restarts. Default: any number, as for a Deployment.
    final_codes : sequence of int
        Exit codes after which it is not restarted. Default: none.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        log: Path,
        *,
        retries: int | None = None,
        final_codes: Sequence[int] = (),
    ) -> None:
        self.name, self.command, self.environment = name, list(command), environment
        self.retries, self.final_codes = retries, tuple(final_codes)
        self.restarts = -1
        self.over = False
        self._log: IO[bytes] = (log / f"{name}.txt").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def start(self) -> None:
        self.restarts += 1
        self._process = subprocess.Popen(
            self.command, env=self.environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def restart_if_ended(self) -> None:
        """Restart the container if it has ended, as its exit code and the number of restarts allow."""
        if self.over or self._process is None or self._process.poll() is None:
            return
        self._kill_rest()
        spent = self.retries is not None and self.restarts >= self.retries
        if self._process.returncode in self.final_codes or spent:
            self.over = True
            return
        self.start()

    def kill(self, number: int) -> None:
        """Send a signal to the whole process group, as when a node is lost."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        self._process.wait()

    def terminate(self) -> float:
        """Send SIGTERM to the first process, as the kubelet does; return the seconds until it has ended."""
        assert self._process is not None
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill(signal.SIGKILL)
        return time.monotonic() - start

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.terminate()
        self._kill_rest()
        self._log.close()

    def _kill_rest(self) -> None:
        """Kill the remaining processes of the group, as the end of a container does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def without_options(command: list[str], options: tuple[str, ...]) -> list[str]:
    """Return a command line without these options and their values."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in options:
            next(words)
        else:
            kept.append(word)
    return kept


def with_options(command: list[str], values: dict[str, str]) -> list[str]:
    """Return a command line with other values of these options."""
    return [values.get(before, word) for before, word in zip(["", *command], command, strict=False)]


def large_node(folder: Path) -> str:
    """Return a folder for PYTHONPATH, by which Python believes that this machine has 32 cores, and much memory."""
    path = folder / "node"
    path.mkdir(parents=True, exist_ok=True)
    (path / "sitecustomize.py").write_text(
        "import os\n"
        "import psutil\n"
        "os.cpu_count = lambda: 32\n"
        "os.sched_getaffinity = lambda pid: set(range(32))\n"
        "psutil.cpu_count = lambda logical=True: 32\n"
        "psutil.Process.cpu_affinity = lambda self, cpus=None: list(range(32))\n"
        "real = psutil.virtual_memory\n"
        "psutil.virtual_memory = lambda: real()._replace(total=128 * 2**30)\n"
    )
    return str(path)


def shortened_driver(command: list[str], kinds: Sequence[str]) -> list[str]:
    """Return the driver's command with at most two workers of these kinds, and with shorter times for scaling."""
    words = iter(command[command.index("run") :])
    kept: list[str] = []
    for word in words:
        value = next(words) if word == "--scale" else None
        if value is None:
            kept.append(word)
        elif value.partition("=")[0] in kinds:
            kept += [word, value.rpartition(":")[0] + ":2"]
    code = (
        "from membrain_cloud.pipeline.runners.kubernetes import groups\n"
        "groups.WINDOW_SECONDS, groups.CHANGE_SECONDS = 15.0, 2.0\n"
        "from membrain_cloud.cli import main\n"
        "main()\n"
    )
    return [sys.executable, "-c", code, *kept]


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificates(folder: Path) -> None:
    """Create an authority and a certificate in `folder`, as cert-manager does: ca.crt, tls.crt, tls.key."""
    folder.mkdir(parents=True)
    run = subprocess.run
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["openssl", "req", "-x509", *curve, "-days", "2", "-subj", "/CN=rehearsal-authority"]
    run([*authority, "-keyout", "ca.key", "-out", "ca.crt"], cwd=folder, check=True, capture_output=True)
    request = ["openssl", "req", *curve, "-subj", "/CN=rehearsal-dask", "-keyout", "tls.key", "-out", "tls.csr"]
    run(request, cwd=folder, check=True, capture_output=True)
    signed = ["openssl", "x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    run([*signed, "-days", "2", "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)


def strangers_are_refused(host: str, port: int, folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield clients without a certificate of the authority, and whether the scheduler refuses them.

    Parameters
    ----------
    host : str
        Address of the scheduler.
    port : int
        Its port.
    folder : Path
        Folder with the authorities `tls` and `strangers`, from `certificates`.
    """
    authority = folder / "tls"
    cases = {
        "plain TCP": None,
        "TLS without a certificate": _context(authority, None),
        "a certificate of another authority": _context(authority, folder / "strangers"),
    }
    for what, context in cases.items():
        yield f"refused: {what}", not asyncio.run(_is_answered(host, port, context))
    yield (
        "let in: a certificate of this authority",
        asyncio.run(_is_answered(host, port, _context(authority, authority))),
    )


def _context(authority: Path, own: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    context.check_hostname = False
    if own is not None:
        context.load_cert_chain(own / "tls.crt", own / "tls.key")
    return context


async def _is_answered(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    """Return whether the scheduler answers: it opens every connection with a handshake."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), 10)
        try:
            return bool(await asyncio.wait_for(reader.read(8), 3))
        finally:
            writer.close()
    except (TimeoutError, OSError):
        return False


BUCKET = "rehearsal"


def make_project(folder: str, tomograms: int) -> None:
    """Simulate tomograms, and write two copick configs over them: one with results on S3, one in a local folder.

    Parameters
    ----------
    folder : str
        Path of the rehearsal's folder.
    tomograms : int
        Number of tomograms.
    """
    import json

    import fsspec

    from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project
    from membrain_cloud.simulation.phantom import PhantomSettings

    phantom = PhantomSettings(shape=(64, 96, 96), membranes=2)
    simulated = [SimulatedTomogram(f"phantom-{number}", 90_000 + number, phantom) for number in range(1, tomograms + 1)]
    source = Path(folder) / "source"
    simulate_project(str(source), simulated, particle="particle", processes=2, report=lambda line: None)
    source_config = json.loads((source / "config.json").read_text())
    fsspec.filesystem("s3").mkdir(BUCKET)
    (Path(folder) / "alone").mkdir()
    overlays = {"config.json": (f"s3://{BUCKET}/overlay", {}), "alone.json": (f"local://{folder}/alone", {})}
    for name, (overlay, options) in overlays.items():
        config = {
            **source_config,
            "static_root": f"local://{source}",
            "static_fs_args": {},
            "overlay_root": overlay,
            "overlay_fs_args": options,
        }
        (Path(folder) / name).write_text(json.dumps(config))


def receipts(config: str) -> int:
    """Return the number of receipts of a project."""
    from membrain_cloud.store.projects.open import open_project

    return len(open_project(config).receipts.names())


def same_tables(one: str, other: str) -> None:
    """Raise AssertionError if the tables of two projects differ or are missing; `one` and `other` are configs."""
    from pandas.testing import assert_frame_equal

    from membrain_cloud import tables

    first, second = (tables.open(f"{_root(config)}/membrain-cloud/tables") for config in (one, other))
    assert first.names() == second.names() != []
    for name in first.names():
        frames = []
        for analysis in (first, second):
            frame = analysis.frame(name)
            frames.append(frame.sort_values(list(frame.columns)).reset_index(drop=True))
        assert_frame_equal(*frames, obj=name)


def _root(config: str) -> str:
    from membrain_cloud.store.projects.open import open_project

    return open_project(config).root_url


def download(config: str, folder: str) -> None:
    """Download the bucket into a folder, to search it."""
    import fsspec

    fsspec.filesystem("s3").get(f"{BUCKET}/", folder, recursive=True)

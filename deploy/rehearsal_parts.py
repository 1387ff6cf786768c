"""Parts of the rehearsal: processes that are restarted like pods, certificates, the project, and what is compared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Pod:
    """One container: a process group that is started again when it ends, unless its exit code is final.

    retries : how many restarts; None: any number, as for a Deployment.  final_codes : exit codes that end it for good.
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

    def look(self) -> None:
        """Start it again where it has ended and should run on."""
        if self.over or self._process is None or self._process.poll() is None:
            return
        self._sweep()
        spent = self.retries is not None and self.restarts >= self.retries
        if self._process.returncode in self.final_codes or spent:
            self.over = True
            return
        self.start()

    def kill(self, number: int) -> None:
        """The whole group at once, as when a node is lost."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        self._process.wait()

    def terminate(self) -> float:
        """SIGTERM to the container's first process, as the kubelet sends it; the seconds until it has ended."""
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
        self._sweep()
        self._log.close()

    def _sweep(self) -> None:
        """What a container's end takes with it: the rest of its processes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def without_options(command: list[str], options: tuple[str, ...]) -> list[str]:
    """Without these options and the value of each."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in options:
            next(words)
        else:
            kept.append(word)
    return kept


def with_options(command: list[str], values: dict[str, str]) -> list[str]:
    """With other values of these options."""
    return [values.get(before, word) for before, word in zip(["", *command], command, strict=False)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def certificates(folder: Path) -> None:
    """An authority of its own in `folder`, as cert-manager makes it: ca.crt, tls.crt, tls.key."""
    folder.mkdir(parents=True)
    run = subprocess.run
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["openssl", "req", "-x509", *curve, "-days", "2", "-subj", "/CN=rehearsal-authority"]
    run([*authority, "-keyout", "ca.key", "-out", "ca.crt"], cwd=folder, check=True, capture_output=True)
    asked = ["openssl", "req", *curve, "-subj", "/CN=rehearsal-dask", "-keyout", "tls.key", "-out", "tls.csr"]
    run(asked, cwd=folder, check=True, capture_output=True)
    signed = ["openssl", "x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    run([*signed, "-days", "2", "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)


def strangers_are_refused(host: str, port: int, folder: Path) -> Iterator[tuple[str, bool]]:
    """Nobody without a certificate of the authority is heard by the scheduler: plain, without, with another's."""
    known = folder / "tls"
    cases = {
        "plain TCP": None,
        "TLS without a certificate": _context(known, None),
        "a certificate of another authority": _context(known, folder / "strangers"),
    }
    for what, context in cases.items():
        yield f"refused: {what}", not asyncio.run(_is_answered(host, port, context))
    yield "let in: a certificate of this authority", asyncio.run(_is_answered(host, port, _context(known, known)))


def _context(authority: Path, own: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    context.check_hostname = False
    if own is not None:
        context.load_cert_chain(own / "tls.crt", own / "tls.key")
    return context


async def _is_answered(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    """Whether the scheduler speaks to us: it opens every conversation with a handshake of its own."""
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
    """Simulated tomograms in `folder`, and two copick configs over them: results to S3, and to a folder beside."""
    import json

    import fsspec

    from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project
    from membrain_cloud.simulation.phantom import PhantomSettings

    phantom = PhantomSettings(shape=(64, 96, 96), membranes=2)
    wanted = [SimulatedTomogram(f"phantom-{number}", 90_000 + number, phantom) for number in range(1, tomograms + 1)]
    source = Path(folder) / "source"
    simulate_project(str(source), wanted, particle="particle", processes=2, report=lambda line: None)
    made = json.loads((source / "config.json").read_text())
    fsspec.filesystem("s3").mkdir(BUCKET)
    (Path(folder) / "alone").mkdir()
    overlays = {"config.json": (f"s3://{BUCKET}/overlay", {}), "alone.json": (f"local://{folder}/alone", {})}
    for name, (overlay, options) in overlays.items():
        config = {
            **made,
            "static_root": f"local://{source}",
            "static_fs_args": {},
            "overlay_root": overlay,
            "overlay_fs_args": options,
        }
        (Path(folder) / name).write_text(json.dumps(config))


def receipts(config: str) -> int:
    """Receipts of whole tasks beside a project's results."""
    from membrain_cloud.store.projects.open import open_project

    return len(open_project(config).receipts.names())


def same_tables(one: str, other: str) -> None:
    """Raises AssertionError where two projects' tables differ in a value, or have none."""
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
    """Everything in the bucket, so that it can be searched."""
    import fsspec

    fsspec.filesystem("s3").get(f"{BUCKET}/", folder, recursive=True)

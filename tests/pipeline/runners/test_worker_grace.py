"""A worker that is told to go has the time in Dask's configuration, and its nanny waits for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import dask
import pytest

from membrain_cloud.pipeline.runners.worker_grace import GRACE_SECONDS, dask_teardown, grace_seconds


def test_the_time_is_configured() -> None:
    assert grace_seconds() == GRACE_SECONDS
    with dask.config.set({"membrain-cloud.grace-seconds": 110}):
        assert grace_seconds() == 110.0


class _Nanny(SimpleNamespace):
    """A nanny of a process that takes some time to end after SIGTERM, or does not."""

    def __init__(self, reaction: str) -> None:
        code = f"import signal, sys, time\nsignal.signal(signal.SIGTERM, {reaction})\nprint(flush=True)\ntime.sleep(60)"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def __enter__(self) -> _Nanny:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_nanny_waits_for_its_worker_and_no_longer_than_it_may() -> None:
    with _Nanny("lambda *_: (time.sleep(0.3), sys.exit(7))") as nanny:
        asyncio.run(dask_teardown(nanny))
        assert nanny.process.returncode == 7, "it ended by itself"
    with dask.config.set({"membrain-cloud.grace-seconds": -0.5}), _Nanny("signal.SIG_IGN") as nanny:
        asyncio.run(dask_teardown(nanny))
        assert nanny.is_alive(), "the nanny kills it then"


@pytest.mark.parametrize("nanny", [SimpleNamespace(), SimpleNamespace(pid=None)])
def test_without_a_worker_process_there_is_no_wait(nanny: Any) -> None:
    asyncio.run(dask_teardown(nanny))
    assert os.getpid() > 0

"""The time that a worker has to finish its task when it is told to go.

`dask worker` gives its worker process 8 s after a SIGTERM. A nanny first waits for its preloaded modules, so this one
hands the signal on to the worker process, which starts no further task (`dask_worker.LeaveNotice`), and waits until it
has ended, for the time in Dask's configuration, `membrain-cloud.grace-seconds`:

    DASK_MEMBRAIN_CLOUD__GRACE_SECONDS=110 dask worker --preload-nanny membrain_cloud.pipeline.runners.worker_grace ...

The command does not read `distributed.nanny.preload` of the configuration.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import dask

# Without this preload a nanny ends its worker after 8 s.
GRACE_SECONDS = 7.0
_GRACE_KEY = "membrain-cloud.grace-seconds"


def grace_seconds() -> float:
    """Return the time in seconds that a worker has to finish its task, from Dask's configuration."""
    return float(dask.config.get(_GRACE_KEY, GRACE_SECONDS))


async def dask_teardown(nanny: Any) -> None:
    """Let the worker process finish its task, when the nanny closes.

    Parameters
    ----------
    nanny : distributed.Nanny
        The nanny; a worker without one closes by itself.
    """
    pid = getattr(nanny, "pid", None)
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + grace_seconds() + 1.0
    while nanny.pid == pid and nanny.is_alive() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)

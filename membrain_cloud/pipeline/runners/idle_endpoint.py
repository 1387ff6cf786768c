"""How long a Dask scheduler has been without a driver: what the Dask operator asks before it deletes a cluster.

Dask's own answer (`distributed.http.scheduler.api`) counts a scheduler as idle while a driver is planning or waiting
for nodes, and comes with a call that lets anybody retire workers. This module answers that one question alone. A
scheduler serves it where its configuration names it:

    distributed.scheduler.http.routes: [..., membrain_cloud.pipeline.runners.idle_endpoint]
"""

from __future__ import annotations

import json
import time
from typing import Any
from weakref import WeakKeyDictionary

from tornado.web import RequestHandler

# Dask's own entry among a scheduler's clients: results that nobody waits for.
_NOBODY = "fire-and-forget"


class IdleClock:
    """Since when each scheduler has been without a driver and without a task at work, in seconds since the epoch."""

    def __init__(self) -> None:
        self._since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def idle_since(self, scheduler: Any, now: float) -> float | None:
        """None while a client is connected or a task is at work; else when it was first seen so."""
        has_driver = bool(set(scheduler.clients) - {_NOBODY})
        if has_driver or any(worker.processing for worker in scheduler.workers.values()):
            self._since.pop(scheduler, None)
            return None
        return self._since.setdefault(scheduler, now)


_CLOCK = IdleClock()


class IdleHandler(RequestHandler):
    """GET -> {"idle_since": seconds since the epoch, or null}."""

    def initialize(self, dask_server: Any = None) -> None:
        self.server = dask_server

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps({"idle_since": _CLOCK.idle_since(self.server, time.time())}))


routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [("/api/v1/check_idle", IdleHandler, {})]

"""An HTTP endpoint of a Dask scheduler: since when no driver has been connected.

The Dask operator asks for it before it deletes a cluster. Dask's own endpoint (`distributed.http.scheduler.api`) counts
a scheduler as idle while a driver plans or waits for nodes, and comes with a call by which anybody can retire workers.
This one answers the question alone. A scheduler serves it where its configuration names this module:

    distributed.scheduler.http.routes: [..., membrain_cloud.pipeline.runners.idle_endpoint]
"""

from __future__ import annotations

import json
import time
from typing import Any
from weakref import WeakKeyDictionary

from tornado.web import RequestHandler

# Dask's own entry among a scheduler's clients, for results that no client waits for.
_FIRE_AND_FORGET = "fire-and-forget"


class IdleClock:
    """Records since when each scheduler has been idle."""

    def __init__(self) -> None:
        self._since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def idle_since(self, scheduler: Any, now: float) -> float | None:
        """Return since when a scheduler has had neither a client nor a task in execution.

        Parameters
        ----------
        scheduler : distributed.Scheduler
            The scheduler.
        now : float
            The time in seconds since the epoch.

        Returns
        -------
        float or None
            The time of the first call that found it idle, in seconds since the epoch; None while it is not idle.
        """
        has_driver = bool(set(scheduler.clients) - {_FIRE_AND_FORGET})
        if has_driver or any(worker.processing for worker in scheduler.workers.values()):
            self._since.pop(scheduler, None)
            return None
        return self._since.setdefault(scheduler, now)


_CLOCK = IdleClock()


class IdleHandler(RequestHandler):
    """Answers GET with {"idle_since": seconds since the epoch, or null}."""

    def initialize(self, dask_server: Any = None) -> None:
        """Take the scheduler from Dask's HTTP server.

        Parameters
        ----------
        dask_server : distributed.Scheduler
            The scheduler that serves the endpoint.
        """
        self.server = dask_server

    def get(self) -> None:
        """Write the answer as JSON."""
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps({"idle_since": _CLOCK.idle_since(self.server, time.time())}))


# What Dask reads from a module named in `distributed.scheduler.http.routes`.
routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [("/api/v1/check_idle", IdleHandler, {})]

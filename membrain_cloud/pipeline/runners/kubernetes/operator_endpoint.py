"""HTTP endpoint of a Dask scheduler, for the Dask operator: since when it has been idle, and which workers to remove.

Before the operator deletes a cluster it asks since when the cluster has been idle. Dask's own endpoint
(`distributed.http.scheduler.api`) counts a scheduler as idle while a driver plans or waits for nodes. This one counts
the time without a driver.

When a worker group is to shrink, the operator asks for the names of so many workers, and deletes these. Dask's own
endpoint retires any workers for anybody who asks, those of other groups included. This one changes nothing: it answers
with the names that the driver has announced. Without a driver it refuses; the operator then chooses by itself, which
harms no work.

A scheduler serves this endpoint where its configuration names this module:

    distributed.scheduler.http.routes: [..., membrain_cloud.pipeline.runners.kubernetes.operator_endpoint]
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dask
from tornado.web import RequestHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

# Dask's own entry among a scheduler's clients, for results that no client waits for.
_FIRE_AND_FORGET = "fire-and-forget"
# A worker that was named to the operator is named again after this time: the operator may have failed to delete it.
RENAME_SECONDS = 30.0
# Names under which a scheduler's configuration may have this module.
_MODULES = (__name__, "membrain_cloud.pipeline.cluster_idle")


@dataclass
class SchedulerRecord:
    """What is known of one scheduler.

    Attributes
    ----------
    idle_since : float or None
        Time of the first request that found it without a driver and without a task; None while it is in use.
    asked_at : float or None
        Time of the operator's last request.
    leaving : dict of str to float
        Names of the workers that the driver has announced -> when each was last named to the operator; 0 for never.
    """

    idle_since: float | None = None
    asked_at: float | None = None
    leaving: dict[str, float] = field(default_factory=dict)


_RECORDS: WeakKeyDictionary[Any, SchedulerRecord] = WeakKeyDictionary()


def idle_since(scheduler: Any, now: float) -> float:
    """Return since when a scheduler has had neither a driver nor a task in execution.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        The scheduler.
    now : float
        The time in seconds since the epoch.

    Returns
    -------
    float
        The time of the first call that found it idle, in seconds since the epoch; `now` while it is in use.
    """
    record = _record(scheduler)
    if _has_driver(scheduler) or any(worker.processing for worker in scheduler.workers.values()):
        record.idle_since = None
        return now
    if record.idle_since is None:
        record.idle_since = now
    return record.idle_since


def workers_to_remove(scheduler: Any, count: int, now: float) -> list[str] | None:
    """Return the names of announced workers, those first that have not been named to the operator.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        The scheduler.
    count : int
        Largest number of names.
    now : float
        The time in seconds since the epoch.

    Returns
    -------
    list of str or None
        At most `count` names. None where no driver is connected: any worker may be removed.
    """
    leaving = _record(scheduler).leaving
    if not leaving and not _has_driver(scheduler):
        return None
    names = [name for name, named_at in leaving.items() if now - named_at >= RENAME_SECONDS][: max(0, count)]
    leaving.update(dict.fromkeys(names, now))
    return names


def announce(names: Sequence[str], even_busy: bool = False, dask_scheduler: Any = None) -> list[str]:
    """Announce the workers that the operator may remove; for `Client.run_on_scheduler`.

    Parameters
    ----------
    names : sequence of str
        Their names, which are those of their Deployments. They replace earlier ones.
    even_busy : bool
        Whether workers that execute a task, of any driver, may be removed too. Default: they are left out.
    dask_scheduler : distributed.Scheduler
        The scheduler, given by Dask.

    Returns
    -------
    list of str
        The names that are announced.
    """
    accepted = [name for name in names if even_busy or not _is_busy(dask_scheduler, name)]
    leaving, chosen = _record(dask_scheduler).leaving, set(accepted)
    kept = {name: named_at for name, named_at in leaving.items() if name in chosen}
    leaving.clear()
    leaving.update(dict.fromkeys(accepted, 0.0) | kept)
    return accepted


def operator_contact(dask_scheduler: Any = None) -> dict[str, Any]:
    """Return whether the scheduler serves this endpoint, and whether it was asked; for `Client.run_on_scheduler`.

    Parameters
    ----------
    dask_scheduler : distributed.Scheduler
        The scheduler, given by Dask.

    Returns
    -------
    dict of str to Any
        "served": bool, and "asked": whether the operator has sent a request.
    """
    configured = dask.config.get("distributed.scheduler.http.routes", [])
    served = any(name in configured for name in _MODULES)
    return {"served": served, "asked": _record(dask_scheduler).asked_at is not None}


def _record(scheduler: Any) -> SchedulerRecord:
    record = _RECORDS.get(scheduler)
    if record is None:
        record = _RECORDS[scheduler] = SchedulerRecord()
    return record


def _is_busy(scheduler: Any, name: str) -> bool:
    worker = scheduler.workers.get(scheduler.aliases.get(name))
    return worker is not None and bool(worker.processing)


def _has_driver(scheduler: Any) -> bool:
    return bool(set(scheduler.clients) - {_FIRE_AND_FORGET})


class _Handler(RequestHandler):
    """Has the scheduler that Dask's HTTP server passes, and records that it was asked."""

    def initialize(self, dask_server: Any = None) -> None:
        """Take the scheduler from Dask's HTTP server.

        Parameters
        ----------
        dask_server : distributed.Scheduler
            The scheduler that serves the endpoint.
        """
        self.server = dask_server
        _record(dask_server).asked_at = time.time()
        self.set_header("Content-Type", "application/json")


class IdleHandler(_Handler):
    """Answers GET with {"idle_since": seconds since the epoch}, the present time while the scheduler is in use."""

    def get(self) -> None:
        """Write the answer as JSON."""
        self.write(json.dumps({"idle_since": idle_since(self.server, time.time())}))


class RetireHandler(_Handler):
    """Answers POST {"n": number} with {name: {"name": name}} of announced workers, as the operator expects it."""

    def post(self) -> None:
        """Write the answer as JSON; 404 where no driver is connected."""
        try:
            count = int(json.loads(self.request.body)["n"])
        except (ValueError, KeyError, TypeError):
            self.set_status(400)
            self.write(json.dumps({"error": 'send {"n": number of workers}'}))
            return
        names = workers_to_remove(self.server, count, time.time())
        if names is None:
            self.set_status(404)
            self.write(json.dumps({"error": "no driver is connected: any worker may be removed"}))
            return
        self.write(json.dumps({name: {"name": name} for name in names}))


# What Dask reads from a module named in `distributed.scheduler.http.routes`.
routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [
    ("/api/v1/check_idle", IdleHandler, {}),
    ("/api/v1/retire_workers", RetireHandler, {}),
]

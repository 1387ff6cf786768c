"""Tell what runs elsewhere are doing from the store alone: leases show tasks at work, receipts what was done and when.

Times are those of the store's objects, by the store's own clock; clocks of machines are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.store.run_state.leases import Holder, Leases
from membrain_cloud.store.run_state.receipts import ReceiptName, Receipts
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

RATE_SECONDS = 3600.0
"""The rate is that of the last hour in which a task was done, or of less where there is less."""

LEFT_SECONDS = 120.0
"""Leases without a renewal for this time are abandoned; a lease that is held is renewed every 15 s."""


@dataclass(frozen=True)
class Activity:
    """The tasks at work in a store.

    Attributes
    ----------
    at_work : sequence of mappings
        Leases that are renewed: lease, run, stage, part, worker, run_id, stands_seconds (since the last renewal).
    left : sequence of mappings
        Leases that are not renewed any more.
    tasks_per_hour : float or None
        By the receipts of the last hour; None with fewer than two.
    eta_seconds : float or None
        Time that the rest of the plan takes at this rate; None where no task is at work.
    """

    at_work: Sequence[Mapping[str, Any]]
    left: Sequence[Mapping[str, Any]]
    tasks_per_hour: float | None
    eta_seconds: float | None


def read_activity(project: Project, settings: Settings, plan: Plan) -> Activity:
    """Read leases and receipts. Nothing is written.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings, for the tables.
    plan : Plan
        What is left to do.

    Returns
    -------
    Activity
        The tasks at work, and the rate.
    """
    at_work: list[Mapping[str, Any]] = []
    left: list[Mapping[str, Any]] = []
    times: list[float] = []
    for receipts in (project.receipts, open_tables(project, settings.output.tables).receipts):
        times += _times(receipts)
        files = receipts.beside("leases")
        modified = {name.removesuffix(".json"): info.modified for name, info in files.listing().items()}
        now = max([when for when in modified.values() if when is not None] + times, default=0.0)
        for name, holder in Leases(files).all().items():
            when = modified.get(name)
            age = None if when is None else max(0.0, now - when)
            is_left = holder.is_dead() or (age or 0.0) > LEFT_SECONDS
            (left if is_left else at_work).append(_as_row(name, holder, age))
    rate = _rate(times)
    eta = None if not rate or not at_work else 3600 * len(plan.tasks) / rate
    return Activity(at_work, left, rate, eta)


def _as_row(name: str, holder: Holder, age_seconds: float | None) -> dict[str, Any]:
    facts = {key: holder.facts.get(key, "") for key in ("run", "stage", "part", "worker", "run_id")}
    return {"lease": name, **facts, "stands_seconds": age_seconds}


def _times(receipts: Receipts) -> list[float]:
    """Return when tasks were done, by the store's clock."""
    modified = receipts.modified()
    return [when for name, when in modified.items() if when is not None and ReceiptName.parse(name) is not None]


def _rate(times: Sequence[float]) -> float | None:
    """Return the tasks in an hour, over the last hour up to the last task."""
    if len(times) < 2:
        return None
    last = max(times)
    recent = [when for when in times if last - when <= RATE_SECONDS]
    span = last - min(recent)
    return 3600 * (len(recent) - 1) / span if span > 0 else None

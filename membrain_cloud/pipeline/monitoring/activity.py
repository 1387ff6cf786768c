"""What a run elsewhere is doing, told by the store alone: leases say what is in work, receipts what was done, and when.

Times are those of the store's own clock, of its objects; no machine's clock is compared with another's.
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

# The rate is that of the last hour in which anything was done, or of less where there is less.
RATE_SECONDS = 3600.0
# A lease is kept up every 15 s; one that is this old was left behind.
LEFT_SECONDS = 120.0


@dataclass(frozen=True)
class Activity:
    """What goes on in a store.

    at_work : leases that are kept up, as dictionaries for people.  left : leases that nobody keeps up.
    tasks_per_hour, eta_seconds : by the receipts of the last hour; None while nothing was done in it.
    """

    at_work: Sequence[Mapping[str, Any]]
    left: Sequence[Mapping[str, Any]]
    tasks_per_hour: float | None
    eta_seconds: float | None


def read_activity(project: Project, settings: Settings, plan: Plan) -> Activity:
    """Look at leases and receipts; `plan` says what is left to do. Nothing is written."""
    kept = (project.receipts, open_tables(project, settings.output.tables).receipts)
    at_work: list[Mapping[str, Any]] = []
    left: list[Mapping[str, Any]] = []
    times: list[float] = []
    for receipts in kept:
        times += _times(receipts)
        files = receipts.beside("leases")
        modified = {name.removesuffix(".json"): info.modified for name, info in files.listing().items()}
        now = max([when for when in modified.values() if when is not None] + times, default=0.0)
        for name, holder in Leases(files).all().items():
            when = modified.get(name)
            stands = None if when is None else max(0.0, now - when)
            is_left = holder.is_dead() or (stands or 0.0) > LEFT_SECONDS
            (left if is_left else at_work).append(_told(name, holder, stands))
    rate = _rate(times)
    eta = None if not rate or not at_work else 3600 * len(plan.tasks) / rate
    return Activity(at_work, left, rate, eta)


def _told(name: str, holder: Holder, stands_seconds: float | None) -> dict[str, Any]:
    facts = {key: holder.facts.get(key, "") for key in ("run", "stage", "part", "worker", "run_id")}
    return {"lease": name, **facts, "stands_seconds": stands_seconds}


def _times(receipts: Receipts) -> list[float]:
    """When tasks were done, by the store's clock."""
    found = receipts.modified()
    return [when for name, when in found.items() if when is not None and ReceiptName.parse(name) is not None]


def _rate(times: Sequence[float]) -> float | None:
    """Tasks an hour, over the last hour up to the last of them."""
    if len(times) < 2:
        return None
    last = max(times)
    recent = [when for when in times if last - when <= RATE_SECONDS]
    span = last - min(recent)
    return 3600 * (len(recent) - 1) / span if span > 0 else None

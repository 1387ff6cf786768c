"""The failures of a project, kept in its store until they are cured."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import MembrainCloudError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.store.run_state.receipts import Receipts

FAILURES = "failures"


class FailureLog:
    """Failures of a project, one record a run and stage, until that stage succeeds there.

    A record is a service to people; where it cannot be written (a full disk, a read-only store), the run goes on and
    has already said what failed.
    """

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        self._known = receipts.names(FAILURES)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.note(outcome, completes=True)

    def note(self, outcome: Outcome, *, completes: bool) -> None:
        """Keep a failure; forget an earlier one when the stage is done (`completes`: not just a part of it)."""
        name = f"{FAILURES}/{outcome.run}/{outcome.stage}"
        try:
            if outcome.state == "failed":
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                self._receipts.write(name, outcome.as_dict() | {"when": now})
                self._known.add(name)
            elif outcome.state in ("done", "skipped") and completes and name in self._known:
                self._receipts.remove(name)
                self._known.discard(name)
        except MembrainCloudError:
            pass

    def records(self) -> list[dict[str, Any]]:
        """All failures, by run and stage."""
        return [record for _, record in self._receipts.read_all(sorted(self._known)) if record is not None]

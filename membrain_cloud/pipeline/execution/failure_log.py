"""The failures of a project, kept in its store until their stage succeeds."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import MembrainCloudError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.store.run_state.receipts import Receipts

FAILURES = "failures"
"""Folder of the failures, beside the receipts."""


class FailureLog:
    """Failures of a project: one record for each run and stage, until that stage succeeds there.

    Where a record cannot be written (a full disk, a read-only store), the run goes on: it has reported the failure.

    Parameters
    ----------
    receipts : Receipts
        The project's receipts.
    """

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        self._names = receipts.names(FAILURES)

    def record_all(self, outcomes: Iterable[Outcome]) -> None:
        """Record the outcomes of whole stages.

        Parameters
        ----------
        outcomes : iterable of Outcome
            One for each stage and run.
        """
        for outcome in outcomes:
            self.record(outcome, completes=True)

    def record(self, outcome: Outcome, *, completes: bool) -> None:
        """Keep a failure, or remove an earlier one where the stage has succeeded.

        Parameters
        ----------
        outcome : Outcome
            Outcome of a task.
        completes : bool
            Whether the stage is done with this task.
        """
        name = f"{FAILURES}/{outcome.run}/{outcome.stage}"
        try:
            if outcome.state == "failed":
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                self._receipts.write(name, outcome.as_dict() | {"when": now})
                self._names.add(name)
            elif outcome.state in ("done", "skipped") and completes and name in self._names:
                self._receipts.remove(name)
                self._names.discard(name)
        except MembrainCloudError:
            pass

    def records(self) -> list[dict[str, Any]]:
        """Return all failures, by run and stage: the fields of `Outcome`, and "when"."""
        return [record for _, record in self._receipts.read_all(sorted(self._names)) if record is not None]

"""What the store says about a project: failures, whether receipts still hold, and what nothing vouches for."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.tasks import Outcome, Ref, ref_from_dict
from membrain_cloud.store.project import Project
from membrain_cloud.store.receipts import ReceiptName, Receipts
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

FAILURES = "failures"


class FailureLedger:
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
        found = (self._receipts.read(name) for name in sorted(self._known))
        return [record for record in found if record is not None]


@dataclass(frozen=True)
class Finding:
    """One thing `verify` found. state : "ok", "changed" (since it was written), or "missing"."""

    receipt: str
    output: str
    state: str


def verify(project: Project, *, forget_missing: bool = False) -> list[Finding]:
    """Check every finished stage's output against its receipt, without reading voxels.

    forget_missing : remove the receipts of outputs that are gone, so that the next run makes them again.
    """
    findings = []
    for name, receipt in complete_receipts(project.receipts):
        output = _output(receipt)
        if output is None:
            continue
        if not project.has(output):
            state = "missing"
            if forget_missing:
                project.receipts.remove(name)
        else:
            state = "ok" if receipt.get("output_identity") in (None, project.identity(output)) else "changed"
        findings.append(Finding(name, output.key, state))
    return findings


def orphans(project: Project, user: str) -> list[Ref]:
    """Annotations of `user` that no receipt vouches for: left by killed runs, or by hand under our name."""
    vouched = {_output(receipt) for _, receipt in complete_receipts(project.receipts)}
    found: list[Ref] = []
    for run in project.runs():
        there: list[SegmentationRef | ObjectRef] = [
            *project.segmentations(run),
            *project.meshes(run),
            *project.picks(run),
        ]
        found += [ref for ref in there if ref.user == user and ref not in vouched]
    return found


def complete_receipts(receipts: Receipts) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Receipts of finished stages (not of parts, not failures), by name."""
    parsed = {name: ReceiptName.parse(name) for name in receipts.names()}
    names = sorted(name for name, known in parsed.items() if known is not None and known.part == "complete")
    found = ((name, receipts.read(name)) for name in names)
    return [(name, receipt) for name, receipt in found if receipt is not None]


def _output(receipt: Mapping[str, Any]) -> Ref | None:
    output = receipt.get("output")
    return None if output is None else ref_from_dict({key: value for key, value in output.items() if key != "uri"})

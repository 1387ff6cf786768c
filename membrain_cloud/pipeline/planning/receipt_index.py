"""What the store's receipts say to a plan: what is done, whose results a session holds, and how long things took."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION, ReceiptName, Receipts, refuse_newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from membrain_cloud.pipeline.planning.records import RunPlan, Step
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task

# Requests to a store at once.
CONCURRENT_REQUESTS = 16
# Of so few runs the receipts are listed run by run, of more all that the stages have.
FEW_RUNS = 16
# So many receipts of a stage are read for what they say of times and versions, evenly chosen among all.
SAMPLES = 64
# So many of those that would be replaced are read for whose they are.
REPLACED_SAMPLES = 512


class ReceiptIndex:
    """The names of the receipts that bear on a plan, and a sample of their contents.

    names : of each store ("project", "tables").  samples : of each stage, the contents of some finished ones.
    """

    def __init__(self, receipts: Mapping[str, Receipts], names: Mapping[str, set[str]]) -> None:
        self.receipts, self.names = receipts, names
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self._sampled: list[tuple[str, str, dict[str, Any]]] = []

    @classmethod
    def of(cls, receipts: Mapping[str, Receipts], drafts: Sequence[RunPlan]) -> ReceiptIndex:
        """By a few bulk listings and a bounded number of reads, however many receipts there are."""
        depth = 3 if len(drafts) <= FEW_RUNS else 2  # an address is stage/session/run/name
        places = sorted(
            {
                (step.stage.keeps_receipts_in, "/".join(task.address.split("/")[:depth]))
                for step in _steps(drafts)
                for task in step.tasks[-1:]
            }
        )
        names: dict[str, set[str]] = {store: set() for store in receipts}
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            listed = threads.map(lambda place: receipts[place[0]].names(place[1]), places)
            for (store, _), found in zip(places, listed, strict=True):
                names[store] |= found
        standing = cls(receipts, names)
        standing._read_samples(drafts)
        return standing

    def is_done(self, stage: Stage, task: Task) -> bool:
        return task.receipt in self.names[stage.keeps_receipts_in]

    def refuse_newer(self) -> None:
        """StorageError where a newer version of this package has written receipts: by their names, or a sample."""
        for store, names in self.names.items():
            for name in names:
                if ".v" in name and (known := ReceiptName.parse(name)) and known.version > RECEIPT_VERSION:
                    refuse_newer(name, {"receipt_version": known.version}, self.receipts[store].url)
        for store, name, receipt in self._sampled:
            refuse_newer(name, receipt, self.receipts[store].url)

    def refuse_other_settings(self, drafts: Sequence[RunPlan], settings: Settings) -> None:
        """UsageError where a named session holds results of other settings that this run would replace.

        Results of the same settings on data that have changed since are replaced. Table rows are no session's.
        """
        wanted: dict[tuple[str, str], Task] = {}
        for step in _steps(drafts):
            for task in step.tasks[-1:]:
                if task.output is not None:
                    wanted[step.stage.keeps_receipts_in, task.address] = task
        replaced = [
            (store, name, wanted[store, known.address])
            for store, names in self.names.items()
            for name in sorted(names)
            if (known := ReceiptName.parse(name)) is not None
            and known.part == "complete"
            and (store, known.address) in wanted
            and wanted[store, known.address].receipt != name
        ]
        chosen = _spread(replaced, REPLACED_SAMPLES)
        found = self._read((store, name) for store, name, _ in chosen)
        others = [
            f"{task.stage} on {task.run}"
            for (_, _, task), receipt in zip(chosen, found, strict=True)
            if receipt is not None and receipt.get("link") not in (None, task.stage_digest)
        ]
        if others:
            raise session_conflict(settings.output.session, others, len(replaced))

    def _read_samples(self, drafts: Sequence[RunPlan]) -> None:
        done: dict[str, list[tuple[str, str]]] = {}
        for step in _steps(drafts):
            for task in step.tasks[-1:]:
                if self.is_done(step.stage, task):
                    done.setdefault(step.stage.name, []).append((step.stage.keeps_receipts_in, task.receipt))
        for stage, places in done.items():
            chosen = _spread(sorted(places), SAMPLES)
            read = zip(chosen, self._read(chosen), strict=True)
            found = [(store, name, receipt) for (store, name), receipt in read if receipt is not None]
            self.samples[stage] = [receipt for _, _, receipt in found]
            self._sampled += found

    def _read(self, names: Iterable[tuple[str, str]]) -> list[dict[str, Any] | None]:
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            return list(threads.map(lambda place: self.receipts[place[0]].read(place[1]), names))


def session_conflict(session: str, examples: Sequence[str], count: int) -> UsageError:
    """What to say where a named session belongs to other settings."""
    shown = ", ".join(examples[:5]) + (f" and {len(examples) - 5} more" if len(examples) > 5 else "")
    of = f" of {count} results that would be replaced" if count > len(examples) else ""
    return UsageError(
        f"session {session!r} holds results of other settings: {shown}{of}",
        "give another output.session, or set output.replace=yes to have them replaced",
    )


def remove_earlier_receipts(receipts: Receipts, task: Task, settings: Settings) -> None:
    """Remove the receipts of earlier results before an output is touched.

    StorageError for those of a newer version, and, in a named session, for those that a run with other settings has
    written since this one was planned: neither may be replaced unasked.
    """
    part = "complete" if task.completes else task.part
    if settings.output.session != "auto" and not settings.output.replace and task.output is not None:
        earlier = receipts.parts(task.address)
        if any(receipt.get("link") not in (None, task.stage_digest) for receipt in earlier.values()):
            error = session_conflict(settings.output.session, [f"{task.stage} on {task.run}"], 1)
            raise StorageError(error.message, error.next_step)
    receipts.forget(task.address, part)


def _steps(drafts: Sequence[RunPlan]) -> Iterable[Step]:
    return (step for draft in drafts for step in draft.steps.values())


def _spread(things: Sequence[Any], count: int) -> list[Any]:
    """At most so many of them, evenly chosen."""
    if len(things) <= count:
        return list(things)
    return [things[index * len(things) // count] for index in range(count)]

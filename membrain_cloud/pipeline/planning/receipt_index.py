"""Index of the receipts in the store: what is done, which settings a session belongs to, how long tasks took."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION, ReceiptName, Receipts, check_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from membrain_cloud.pipeline.planning.records import RunPlan, StagePlan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task

_T = TypeVar("_T")

CONCURRENT_REQUESTS = 16
"""Requests to a store at once."""

FEW_RUNS = 16
"""Up to this number of runs receipts are listed run by run; for more runs whole sessions are listed."""

SAMPLES = 64
"""Maximum number of receipts of a stage that are read for times and versions, evenly spaced among all."""

REPLACED_SAMPLES = 512
"""Maximum number of receipts of a named session that are read for the settings they were made with."""


class ReceiptIndex:
    """The names of the receipts that matter for a plan, and the contents of a sample of them.

    Parameters
    ----------
    receipts : mapping of str to Receipts
        The receipts of the stores "project" and "tables".
    names : mapping of str to set of str
        Names of the receipts in each store.

    Attributes
    ----------
    samples : dict of str to list of dict
        Stage -> contents of some receipts of finished tasks.
    """

    def __init__(self, receipts: Mapping[str, Receipts], names: Mapping[str, set[str]]) -> None:
        self.receipts, self.names = receipts, names
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self._sampled: list[tuple[str, str, dict[str, Any]]] = []

    @classmethod
    def of(cls, receipts: Mapping[str, Receipts], run_plans: Sequence[RunPlan]) -> ReceiptIndex:
        """List the receipts and read a sample.

        The number of requests is bounded, however many receipts there are.

        Parameters
        ----------
        receipts : mapping of str to Receipts
            The receipts of the stores "project" and "tables".
        run_plans : sequence of RunPlan
            Every possible task.

        Returns
        -------
        ReceiptIndex
            The index.
        """
        depth = 3 if len(run_plans) <= FEW_RUNS else 2  # an address is stage/session/run/name
        folders = sorted(
            {
                (stage_plan.stage.keeps_receipts_in, "/".join(task.address.split("/")[:depth]))
                for stage_plan in _stage_plans(run_plans)
                for task in stage_plan.tasks[-1:]
            }
        )
        names: dict[str, set[str]] = {store: set() for store in receipts}
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            listings = threads.map(lambda folder: receipts[folder[0]].names(folder[1]), folders)
            for (store, _), listing in zip(folders, listings, strict=True):
                names[store] |= listing
        index = cls(receipts, names)
        index._read_samples(run_plans)
        return index

    def is_done(self, stage: Stage, task: Task) -> bool:
        """Return whether a task of a stage has its receipt.

        Parameters
        ----------
        stage : Stage
            The stage, for the store that keeps its receipts.
        task : Task
            The task.

        Returns
        -------
        bool
            Whether the task is done.
        """
        return task.receipt in self.names[stage.keeps_receipts_in]

    def refuse_newer(self) -> None:
        """Check, by names and by the sample, that no newer version of this package has written receipts.

        Raises
        ------
        StorageError
            If one has.
        """
        for store, names in self.names.items():
            for name in names:
                if ".v" in name and (parsed := ReceiptName.parse(name)) and parsed.version > RECEIPT_VERSION:
                    check_version(name, {"receipt_version": parsed.version}, self.receipts[store].url)
        for store, name, receipt in self._sampled:
            check_version(name, receipt, self.receipts[store].url)

    def refuse_other_settings(self, run_plans: Sequence[RunPlan], settings: Settings) -> None:
        """Check that the run would replace no results of other settings in a named session.

        Results of the same settings on data that have changed since may be replaced. Rows of tables belong to no
        session.

        Parameters
        ----------
        run_plans : sequence of RunPlan
            Every possible task.
        settings : Settings
            The settings, for the session.

        Raises
        ------
        UsageError
            If it would replace some.
        """
        tasks: dict[tuple[str, str], Task] = {}
        for stage_plan in _stage_plans(run_plans):
            for task in stage_plan.tasks[-1:]:
                if task.output is not None:
                    tasks[stage_plan.stage.keeps_receipts_in, task.address] = task
        replaced = [
            (store, name, tasks[store, parsed.address])
            for store, names in self.names.items()
            for name in sorted(names)
            if (parsed := ReceiptName.parse(name)) is not None
            and parsed.part == "complete"
            and (store, parsed.address) in tasks
            and tasks[store, parsed.address].receipt != name
        ]
        sample = _evenly_spaced(replaced, REPLACED_SAMPLES)
        contents = self._read((store, name) for store, name, _ in sample)
        others = [
            f"{task.stage} on {task.run}"
            for (_, _, task), receipt in zip(sample, contents, strict=True)
            if receipt is not None and receipt.get("link") not in (None, task.stage_digest)
        ]
        if others:
            raise session_conflict(settings.output.session, others, len(replaced))

    def _read_samples(self, run_plans: Sequence[RunPlan]) -> None:
        done: dict[str, list[tuple[str, str]]] = {}
        for stage_plan in _stage_plans(run_plans):
            stage = stage_plan.stage
            for task in stage_plan.tasks[-1:]:
                if self.is_done(stage, task):
                    done.setdefault(stage.name, []).append((stage.keeps_receipts_in, task.receipt))
        for name, places in done.items():
            sample = _evenly_spaced(sorted(places), SAMPLES)
            contents = zip(sample, self._read(sample), strict=True)
            sampled = [(store, key, receipt) for (store, key), receipt in contents if receipt is not None]
            self.samples[name] = [receipt for _, _, receipt in sampled]
            self._sampled += sampled

    def _read(self, names: Iterable[tuple[str, str]]) -> list[dict[str, Any] | None]:
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            return list(threads.map(lambda place: self.receipts[place[0]].read(place[1]), names))


def session_conflict(session: str, examples: Sequence[str], count: int) -> UsageError:
    """Return the error for a named session that has results of other settings.

    Parameters
    ----------
    session : str
        Name of the session.
    examples : sequence of str
        Some of these results, as "stage on run".
    count : int
        Number of results that would be replaced.

    Returns
    -------
    UsageError
        The error.
    """
    shown = ", ".join(examples[:5]) + (f" and {len(examples) - 5} more" if len(examples) > 5 else "")
    of = f" of {count} results that would be replaced" if count > len(examples) else ""
    return UsageError(
        f"session {session!r} holds results of other settings: {shown}{of}",
        "give another output.session, or set output.replace=yes to have them replaced",
    )


def remove_earlier_receipts(receipts: Receipts, task: Task, settings: Settings) -> None:
    """Remove the receipts of earlier results at a task's address, before its output is touched.

    Parameters
    ----------
    receipts : Receipts
        Where the stage's receipts are kept.
    task : Task
        The task.
    settings : Settings
        The settings, for session and replacement.

    Raises
    ------
    StorageError
        If a receipt is one of a newer version, or if a run with other settings has written one in the same named
        session since this run was planned: neither is replaced unasked.
    """
    part = "complete" if task.completes else task.part
    if settings.output.session != "auto" and not settings.output.replace and task.output is not None:
        earlier = receipts.parts(task.address)
        if any(receipt.get("link") not in (None, task.stage_digest) for receipt in earlier.values()):
            error = session_conflict(settings.output.session, [f"{task.stage} on {task.run}"], 1)
            raise StorageError(error.message, error.next_step)
    receipts.forget(task.address, part)


def _stage_plans(run_plans: Sequence[RunPlan]) -> Iterable[StagePlan]:
    return (stage_plan for run_plan in run_plans for stage_plan in run_plan.stages.values())


def _evenly_spaced(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most `count` of the items, evenly spaced among all."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]

"""The outcomes of a run, held small: a driver may have hundreds of thousands of them before it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import cast, overload

from membrain_cloud.pipeline.tasks import Outcome, State, Task

# State, worker and names of what was measured: the same for many, held once.
_Shared = tuple[str, str, tuple[str, ...]]


class OutcomeStore(Sequence[Outcome]):
    """What became of some tasks, in their order; those that have no outcome yet are left out.

    A success is kept as some tens of bytes, from which its Outcome is made again on request. An outcome with a message
    is kept as it is.

    before : outcomes that were known without the tasks, and come first.
    """

    def __init__(self, tasks: Sequence[Task], before: Sequence[Outcome] = ()) -> None:
        self._tasks, self._before = tasks, tuple(before)
        self._kept: list[bytes | Outcome | None] = [None] * len(tasks)
        self._shared: dict[_Shared, int] = {}
        self._count = 0

    def put(self, index: int, outcome: Outcome) -> None:
        """Note what became of the task with this index."""
        self._count += self._kept[index] is None
        self._kept[index] = self._packed(outcome)

    def has(self, index: int) -> bool:
        return self._kept[index] is not None

    def after(self, before: Sequence[Outcome]) -> OutcomeStore:
        """These as they are now, and others before them."""
        other = object.__new__(OutcomeStore)
        vars(other).update(vars(self), _before=(*before, *self._before))
        return other

    def _packed(self, outcome: Outcome) -> bytes | Outcome:
        if outcome.message or outcome.traceback:
            return outcome
        shared = outcome.state, outcome.worker, tuple(outcome.measured)
        number = self._shared.setdefault(shared, len(self._shared))
        numbers = list(outcome.measured.values())
        rest = [number, outcome.seconds, outcome.passing, numbers, dict(outcome.counts)]
        try:
            text = json.dumps(rest, separators=(",", ":")).encode()
            return text if json.loads(text) == rest else outcome
        except TypeError:  # counts that are not plain
            return outcome

    def _unpacked(self, index: int, shared: Sequence[_Shared]) -> Outcome | None:
        kept, task = self._kept[index], self._tasks[index]
        if not isinstance(kept, bytes):
            return kept
        number, seconds, passing, numbers, counts = json.loads(kept)
        state, worker, names = shared[number]
        return Outcome(
            task.stage,
            task.run,
            task.part,
            cast("State", state),
            seconds=seconds,
            counts=counts,
            passing=passing,
            worker=worker,
            measured=dict(zip(names, numbers, strict=True)),
        )

    def __len__(self) -> int:
        return len(self._before) + self._count

    def __iter__(self) -> Iterator[Outcome]:
        yield from self._before
        shared = list(self._shared)
        for index in range(len(self._kept)):
            found = self._unpacked(index, shared)
            if found is not None:
                yield found

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return list(self)[index]

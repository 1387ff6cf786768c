"""The outcomes of a run in little memory: a driver may hold hundreds of thousands of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import cast, overload

from membrain_cloud.pipeline.tasks import Outcome, State, Task

# State, worker and names of what was measured: the same for many outcomes, held once.
_Shared = tuple[str, str, tuple[str, ...]]


class OutcomeStore(Sequence[Outcome]):
    """The outcomes of some tasks, in the tasks' order; tasks without an outcome are left out.

    A success is kept as some tens of bytes, from which its Outcome is made on request. An outcome with a message is
    kept as it is.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks.
    before : sequence of Outcome
        Outcomes that come first. Default: none.
    """

    def __init__(self, tasks: Sequence[Task], before: Sequence[Outcome] = ()) -> None:
        self._tasks, self._before = tasks, tuple(before)
        self._packed: list[bytes | Outcome | None] = [None] * len(tasks)
        self._shared: dict[_Shared, int] = {}
        self._count = 0

    def put(self, index: int, outcome: Outcome) -> None:
        """Store the outcome of a task.

        Parameters
        ----------
        index : int
            Index of the task.
        outcome : Outcome
            Its outcome.
        """
        self._count += self._packed[index] is None
        self._packed[index] = self._pack(outcome)

    def has(self, index: int) -> bool:
        """Return whether the task with this index has an outcome.

        Parameters
        ----------
        index : int
            Position of the task in the plan.
        """
        return self._packed[index] is not None

    def after(self, before: Sequence[Outcome]) -> OutcomeStore:
        """Return these outcomes as they are now, after some others.

        Parameters
        ----------
        before : sequence of Outcome
            The outcomes that come first.

        Returns
        -------
        OutcomeStore
            All outcomes.
        """
        other = OutcomeStore((), (*before, *self._before))
        other._tasks, other._packed = self._tasks, self._packed
        other._shared, other._count = self._shared, self._count
        return other

    def _pack(self, outcome: Outcome) -> bytes | Outcome:
        if outcome.message or outcome.traceback:
            return outcome
        shared = outcome.state, outcome.worker, tuple(outcome.measured)
        number = self._shared.setdefault(shared, len(self._shared))
        values = list(outcome.measured.values())
        rest = [number, outcome.seconds, outcome.passing, values, dict(outcome.counts)]
        try:
            text = json.dumps(rest, separators=(",", ":")).encode()
            return text if json.loads(text) == rest else outcome
        except TypeError:  # counts that are not plain
            return outcome

    def _unpack(self, index: int, shared: Sequence[_Shared]) -> Outcome | None:
        packed, task = self._packed[index], self._tasks[index]
        if not isinstance(packed, bytes):
            return packed
        number, seconds, passing, values, counts = json.loads(packed)
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
            measured=dict(zip(names, values, strict=True)),
        )

    def __len__(self) -> int:
        return len(self._before) + self._count

    def __iter__(self) -> Iterator[Outcome]:
        yield from self._before
        shared = list(self._shared)
        for index in range(len(self._packed)):
            outcome = self._unpack(index, shared)
            if outcome is not None:
                yield outcome

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return list(self)[index]

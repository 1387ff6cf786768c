"""Leases: who is at work on what, so that two runs on one store share the work and do not do it twice.

A lease is one small object, made by a conditional write (whoever comes second is told), kept up by counting in it, and
removed when the work is done. They save work and carry no correctness: that rests on receipts, which are only
written by who still holds the lease, and on results being the same whoever makes them. So a store that does not know
conditional writes is safe as well.

No two machines' clocks are ever compared. Whether a lease is still kept up is judged by its count standing still for a
while on the judge's own clock; of a process on this machine it is known at once whether it lives.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from membrain_cloud.errors import MembrainCloudError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.store.objects.object_store import Files

BEAT_SECONDS = 15.0


@dataclass(frozen=True)
class Holder:
    """What a lease says.

    token : of the one attempt that holds it.  count : raised by every beat.  process : see `this_process`.
    facts : for people: which task, on which worker.
    """

    token: str
    count: int
    process: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Changes with every beat."""
        return f"{self.token}:{self.count}"

    def is_dead(self) -> bool:
        """Whether it was a process of this machine that has ended. False where that cannot be known."""
        return not _may_live(self.process)


class Leases:
    """The leases of one store, below one URL."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def claim(
        self, name: str, token: str, facts: Mapping[str, Any], take_over: str = ""
    ) -> tuple[Lease | None, Holder | None]:
        """Take a lease.

        take_over : token, or state, of a holder that is known to be gone.
        Returns (lease, whom it was taken over from or None), or (None, who holds it).
        """
        file, heir = f"{name}.json", None
        for _ in range(8):  # each turn another run was quicker
            mine = Holder(token, 0, this_process(), facts)
            if self._files.create(file, _encoded(mine)) and self._is_mine(file, token):
                return self._held(file, mine), heir
            other = self.read(name)
            if other is None:
                continue
            if other.token == token:  # an answer was lost and the request repeated: it is ours
                return self._held(file, other), heir
            if not (other.is_dead() or take_over in (other.token, other.state)):
                return None, other
            heir = other
            self._files.remove_object(file)
        return None, self.read(name) or Holder("", 0, "")

    def _held(self, file: str, mine: Holder) -> Lease:
        lease = Lease(self._files, file, mine)
        _HEART.add(lease)
        return lease

    def read(self, name: str) -> Holder | None:
        return read_lease(self._files, f"{name}.json")

    def all(self) -> dict[str, Holder]:
        """Every lease, by name: what is at work now, or was when its holder vanished."""
        names = [name for name in self._files.listing() if name.endswith(".json")]
        found = {name.removesuffix(".json"): read_lease(self._files, name) for name in names}
        return {name: holder for name, holder in found.items() if holder is not None}

    def _is_mine(self, file: str, token: str) -> bool:
        """Some servers take a conditional write for a plain one: look again whose it is."""
        if self._files.local:
            return True
        holder = read_lease(self._files, file)
        return holder is not None and holder.token == token


class Lease:
    """A lease that is held. `lost` is set once somebody else holds it."""

    def __init__(self, files: Files, file: str, mine: Holder) -> None:
        self._files, self._file, self._mine = files, file, mine
        self._beating = threading.Lock()
        self.lost = False

    def beat(self) -> None:
        """Count on, if it is still ours."""
        with self._beating:
            if self.is_held():
                self._mine = Holder(self._mine.token, self._mine.count + 1, self._mine.process, self._mine.facts)
                self._files.write(self._file, _encoded(self._mine))

    def is_held(self) -> bool:
        """Look in the store whether it is still ours. Raises TransientError or StorageError where it cannot be seen."""
        if not self.lost:
            holder = read_lease(self._files, self._file)
            self.lost = holder is None or holder.token != self._mine.token
        return not self.lost

    def release(self) -> None:
        """Remove it, if it is ours. A store that does not answer leaves it to expire."""
        _HEART.drop(self)
        with self._beating, contextlib.suppress(MembrainCloudError):
            if self.is_held():
                self._files.remove_object(self._file)


class _Heart:
    """One thread a process that keeps up all leases it holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: list[Lease] = []
        self._pid = 0

    def add(self, lease: Lease) -> None:
        with self._lock:
            if self._pid != os.getpid():  # the first, or a fork, which has no threads of its parent
                self._pid, self._leases, self._wake = os.getpid(), [], threading.Event()
                threading.Thread(target=self._beat, name="leases", daemon=True).start()
            self._leases.append(lease)

    def drop(self, lease: Lease) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._leases.remove(lease)

    def _beat(self) -> None:
        while True:
            self._wake.wait(BEAT_SECONDS)
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                with contextlib.suppress(MembrainCloudError, OSError):  # the next beat tries again
                    lease.beat()


_HEART = _Heart()


def read_lease(files: Files, file: str) -> Holder | None:
    """None where there is none. One that is torn or of another kind has a holder nobody knows."""
    try:
        content = files.read(file)
    except FileNotFoundError:
        return None
    try:
        told = json.loads(content)
        return Holder(str(told["token"]), int(told["count"]), str(told["process"]), dict(told["facts"]))
    except (ValueError, KeyError, TypeError):
        return Holder(f"torn-{len(content)}", 0, "")


def _encoded(holder: Holder) -> bytes:
    return json.dumps(vars(holder), sort_keys=True).encode()


def this_process() -> str:
    return _process(os.getpid())


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> str:
    """Boot of the machine, namespace of process ids, id and start of a process: enough to know whether it lives."""
    space = _space()
    return f"{space}/{pid}/{psutil.Process(pid).create_time():.2f}" if space else ""


def _may_live(process: str) -> bool:
    space, _, rest = process.partition("/")
    if not space or space != _space():
        return True
    pid, _, born = rest.partition("/")
    try:
        found = psutil.Process(int(pid))
        return abs(found.create_time() - float(born)) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (ValueError, psutil.Error):
        return True


@functools.cache
def _space() -> str:
    """Empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""

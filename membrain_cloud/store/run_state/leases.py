"""Leases: which worker runs which task, so that two runs on one store share the work.

A lease is one small object, made by a conditional write, renewed by a counter in it, and removed when the task ends.
Leases save work and carry no correctness: that rests on receipts, which only the holder of the lease writes, and on
results that are the same on every worker. A store without conditional writes is therefore safe as well.

Clocks of two machines are never compared. A lease counts as abandoned if its counter stands still for a while by the
observer's own clock; whether a process of this machine still runs is known at once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from membrain_cloud.errors import MembrainCloudError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.store.objects.object_store import Files

BEAT_SECONDS = 15.0
"""Time between two heartbeats of a lease."""
_CLAIM_ATTEMPTS = 8


@dataclass(frozen=True)
class Holder:
    """The content of a lease.

    Attributes
    ----------
    token : str
        Identifies the attempt that holds it.
    count : int
        Number of heartbeats so far.
    process : str
        The process that holds it; see `this_process`.
    facts : Mapping
        For people and error messages: task, run, worker.
    """

    token: str
    count: int
    process: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Token and count: changes with every heartbeat."""
        return f"{self.token}:{self.count}"

    def is_dead(self) -> bool:
        """Return whether the holder was a process of this machine that has ended; False if that is unknown."""
        return not _may_live(self.process)


class Leases:
    """The leases of one store.

    Parameters
    ----------
    files : Files
        The folder of the leases.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def claim(
        self, name: str, token: str, facts: Mapping[str, Any], take_over: str = ""
    ) -> tuple[Lease | None, Holder | None]:
        """Take a lease, unless another process holds it.

        Parameters
        ----------
        name : str
            Name of the lease: address and part of the task.
        token : str
            Identifies this attempt.
        facts : Mapping
            For people: task, run, worker.
        take_over : str
            Token or state of a holder that is known to be gone. Default: none.

        Returns
        -------
        lease : Lease or None
            The lease, or None if another process holds it.
        holder : Holder or None
            With a lease: the holder it was taken over from, if any. Without: the present holder.
        """
        file, previous = f"{name}.json", None
        for _ in range(_CLAIM_ATTEMPTS):  # again if another process was quicker
            own = Holder(token, 0, this_process(), facts)
            if self._files.create(file, _encoded(own)) and self._is_own(file, token):
                return self._held(file, own), previous
            other = self.read(name)
            if other is None:
                continue
            if other.token == token:  # the answer was lost and the request repeated
                return self._held(file, other), previous
            if not (other.is_dead() or take_over in (other.token, other.state)):
                return None, other
            previous = other
            self._files.remove_object(file)
        return None, self.read(name) or Holder("", 0, "")

    def read(self, name: str) -> Holder | None:
        """Return the holder of a lease, or None if it is free.

        Parameters
        ----------
        name : str
            Name of the lease: address and part of the task.
        """
        return read_lease(self._files, f"{name}.json")

    def all(self) -> dict[str, Holder]:
        """Return the holders of all leases by name: the tasks that run, and those whose holder vanished."""
        names = [name for name in self._files.listing() if name.endswith(".json")]
        holders = {name.removesuffix(".json"): read_lease(self._files, name) for name in names}
        return {name: holder for name, holder in holders.items() if holder is not None}

    def _held(self, file: str, own: Holder) -> Lease:
        lease = Lease(self._files, file, own)
        _HEARTBEATS.add(lease)
        return lease

    def _is_own(self, file: str, token: str) -> bool:
        """Return whether a lease is ours: some servers take the conditional write that created it for a plain one."""
        if self._files.local:
            return True
        holder = read_lease(self._files, file)
        return holder is not None and holder.token == token


class Lease:
    """A lease that this process holds, renewed by a thread of its own.

    Parameters
    ----------
    files : Files
        The folder of the leases.
    file : str
        Name of the object.
    own : Holder
        Its content.

    Attributes
    ----------
    lost : bool
        Whether another process has taken it over.
    """

    def __init__(self, files: Files, file: str, own: Holder) -> None:
        self._files, self._file, self._own = files, file, own
        self._renewing = threading.Lock()
        self.lost = False

    def beat(self) -> None:
        """Renew the lease, unless it is lost."""
        with self._renewing:
            if self.is_held():
                self._own = replace(self._own, count=self._own.count + 1)
                self._files.write(self._file, _encoded(self._own))

    def is_held(self) -> bool:
        """Return whether the store still has the lease as ours; raise TransientError or StorageError if unknown."""
        if not self.lost:
            holder = read_lease(self._files, self._file)
            self.lost = holder is None or holder.token != self._own.token
        return not self.lost

    def release(self) -> None:
        """Remove the lease, unless it is lost. If the store does not answer, the lease is left to expire."""
        _HEARTBEATS.drop(self)
        with self._renewing, contextlib.suppress(MembrainCloudError):
            if self.is_held():
                self._files.remove_object(self._file)


class _Heartbeats:
    """One thread per process that renews all leases it holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: list[Lease] = []
        self._pid = 0

    def add(self, lease: Lease) -> None:
        with self._lock:
            if self._pid != os.getpid():  # the first lease, or a fork, which has no threads of its parent
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
                with contextlib.suppress(MembrainCloudError, OSError):  # the next heartbeat tries again
                    lease.beat()


_HEARTBEATS = _Heartbeats()


def read_lease(files: Files, file: str) -> Holder | None:
    """Return the holder of a lease.

    Parameters
    ----------
    files : Files
        The folder of the leases.
    file : str
        Name of the object.

    Returns
    -------
    Holder or None
        None if there is no lease. A lease that is torn or of another kind has an unknown holder.
    """
    try:
        content = files.read(file)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(content)
        return Holder(str(fields["token"]), int(fields["count"]), str(fields["process"]), dict(fields["facts"]))
    except (ValueError, KeyError, TypeError):
        return Holder(f"torn-{len(content)}", 0, "")


def _encoded(holder: Holder) -> bytes:
    return json.dumps(vars(holder), sort_keys=True).encode()


def this_process() -> str:
    """Return a name for this process by which any process of this machine can tell whether it still runs."""
    return _process(os.getpid())


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> str:
    """Return boot of the machine, namespace of process ids, id and start time of a process."""
    namespace = _namespace()
    return f"{namespace}/{pid}/{psutil.Process(pid).create_time():.2f}" if namespace else ""


def _may_live(process: str) -> bool:
    """Return whether a process may still run: False only for one of this machine that has ended."""
    namespace, _, rest = process.partition("/")
    if not namespace or namespace != _namespace():
        return True
    pid, _, start = rest.partition("/")
    try:
        running = psutil.Process(int(pid))
        is_same = abs(running.create_time() - float(start)) < 1.0
        return bool(is_same and running.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (ValueError, psutil.Error):
        return True


@functools.cache
def _namespace() -> str:
    """Return boot id of the machine and namespace of its process ids; empty if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""

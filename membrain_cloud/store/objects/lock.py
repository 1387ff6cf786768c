"""One writer at a time for a small object that is read, changed and written back, such as a project's config."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING

from membrain_cloud.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.objects.object_store import Files

# Reading and writing a config takes well under a second: a lock that is held longer is a dead process's.
_STALE_SECONDS = 20.0
_PATIENCE_SECONDS = 90.0


@contextlib.contextmanager
def object_lock(files: Files, name: str) -> Iterator[None]:
    """Hold the lock of an object: a hidden object beside it, made by a conditional write.

    A lock that does not change for 20 s is taken for a dead process's and removed; clocks are not compared. On stores
    without conditional writes, two processes that ask at the same instant may both go on, as without a lock.

    Parameters
    ----------
    files : Files
        The store of the object.
    name : str
        Name of the object.

    Raises
    ------
    TransientError
        If other processes hold the lock for 90 s.
    """
    folder, _, file = name.rpartition("/")
    lock = f"{folder}/.{file}.lock".lstrip("/")
    token = secrets.token_hex(8).encode()
    start = since = time.monotonic()
    last: bytes | None = None
    while not files.create(lock, token):
        holder = _read(files, lock)
        now = time.monotonic()
        if holder != last:
            last, since = holder, now
        elif holder is not None and now - since > _STALE_SECONDS:
            files.remove(lock)
        if now - start > _PATIENCE_SECONDS:
            raise TransientError(f"{files.url}/{name}: other processes keep changing it", "run again")
        time.sleep(0.02 + 0.1 * (secrets.randbelow(100) / 100))
    try:
        yield
    finally:
        if _read(files, lock) == token:
            files.remove(lock)


def _read(files: Files, name: str) -> bytes | None:
    try:
        return files.read(name)
    except FileNotFoundError:
        return None

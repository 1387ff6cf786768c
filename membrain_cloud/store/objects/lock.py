"""One writer at a time for a small file that is read, changed and written back, such as a project's config."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING

from membrain_cloud.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.objects.object_store import Files

# Reading and writing a config takes well under a second: who holds the lock longer has died with it.
_STALE_SECONDS = 20.0
_PATIENCE_SECONDS = 90.0


@contextlib.contextmanager
def alone_with(files: Files, name: str) -> Iterator[None]:
    """Hold the lock of `name` meanwhile: a hidden object beside it, made by a conditional write.

    A lock that stays the same for a while is taken to be a dead process's and removed; no clocks are compared. On
    stores without conditional writes two who come at the same instant may both go on, as without a lock.

    Raises TransientError when others keep it for too long.
    """
    folder, _, file = name.rpartition("/")
    lock = f"{folder}/.{file}.lock".lstrip("/")
    mine = secrets.token_hex(8).encode()
    start = since = time.monotonic()
    seen: bytes | None = None
    while not files.create(lock, mine):
        holder = _read(files, lock)
        now = time.monotonic()
        if holder != seen:
            seen, since = holder, now
        elif holder is not None and now - since > _STALE_SECONDS:
            files.remove(lock)
        if now - start > _PATIENCE_SECONDS:
            raise TransientError(f"{files.url}/{name}: others keep changing it", "run again")
        time.sleep(0.02 + 0.1 * (secrets.randbelow(100) / 100))
    try:
        yield
    finally:
        if _read(files, lock) == mine:
            files.remove(lock)


def _read(files: Files, name: str) -> bytes | None:
    try:
        return files.read(name)
    except FileNotFoundError:
        return None

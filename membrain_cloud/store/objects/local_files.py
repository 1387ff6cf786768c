"""Files of this machine: written whole or not at all, and brought to the disk."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

from membrain_cloud.atomic import FLUSH, TEMPORARY, hidden_sibling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FLUSHES_AT_ONCE = 4


def walk(base: str) -> Iterator[tuple[str, os.stat_result]]:
    """All files below a folder that are no temporary ones, by name relative to it."""
    for folder, folders, names in os.walk(base):
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                continue
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # replaced or removed while we list
                status = os.stat(path)
                yield os.path.relpath(path, base), status


def opened_new(path: str) -> IO[bytes]:
    """A new file; its folder is made where it is not there yet."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def flush_files(paths: Sequence[str]) -> None:
    """Return when they are on the disk; those that were removed since are left out."""
    # Side by side, since a file system brings what is asked for meanwhile to the disk in one go.
    list(_flushers(os.getpid()).map(_flush_path, paths))


@functools.lru_cache(maxsize=1)
def _flushers(_pid: int) -> ThreadPoolExecutor:
    """Threads that wait for the disk. A fork has none of its parent's, so they are known by the process."""
    return ThreadPoolExecutor(_FLUSHES_AT_ONCE, "flush")


def _flush_path(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # it was removed since
    try:
        FLUSH(handle)
    finally:
        os.close(handle)


def replace_file(path: str, content: bytes | IO[bytes], *, flush: bool = True) -> None:
    """Whole or not at all; on the disk before it gets its name, unless `flush_files` is to see to that."""
    temporary = hidden_sibling(path)
    try:
        with opened_new(temporary) as handle:
            if isinstance(content, bytes):
                handle.write(content)
            else:
                shutil.copyfileobj(content, handle, 2**24)
            if flush:
                handle.flush()
                FLUSH(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def create_file(path: str, content: bytes) -> bool:
    """Whole or not at all: a hidden file gets its name by a hard link, which fails where the name is taken."""
    temporary = hidden_sibling(path)
    try:
        with opened_new(temporary) as handle:
            handle.write(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            with open(path, "xb") as handle:  # a file system without hard links
                handle.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)

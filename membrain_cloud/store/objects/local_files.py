"""Files of this machine: written whole or not at all, and flushed to the disk."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

from membrain_cloud import atomic
from membrain_cloud.atomic import TEMPORARY, hidden_sibling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONCURRENT_FLUSHES = 4
# What zarr's own store leaves beside a chunk when it is killed during a write.
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def absolute_path(path: str) -> str:
    """Return a path from the root, without `.` and `..`; symbolic links stay.

    Parameters
    ----------
    path : str
        A path, from the root or from the working folder.
    """
    return os.path.normpath(Path.cwd() / path)


def walk(base: str) -> Iterator[tuple[str, os.stat_result]]:
    """Iterate over all files below a folder, without temporary ones.

    Parameters
    ----------
    base : str
        Path of the folder.

    Yields
    ------
    tuple of str and os.stat_result
        Path relative to the folder, and its status.
    """
    for folder, folders, names in os.walk(base):
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
        for name in names:
            if (name.startswith(".") and name.endswith(".tmp")) or _PARTIAL.search(name):
                continue
            path = Path(folder) / name
            with contextlib.suppress(FileNotFoundError):  # replaced or removed during the listing
                status = path.stat()
                yield os.path.relpath(path, base), status


def temporaries(base: str) -> Iterator[tuple[str, os.stat_result]]:
    """Iterate over what interrupted writes and removals have left below a folder: hidden files and folders.

    Parameters
    ----------
    base : str
        Path of the folder.

    Yields
    ------
    tuple of str and os.stat_result
        Path relative to the folder, and its status.
    """
    for folder, folders, names in os.walk(base):
        temporary = [name for name in (*folders, *names) if TEMPORARY.fullmatch(name)]
        folders[:] = [name for name in folders if name not in temporary]
        for name in temporary:
            path = Path(folder) / name
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                yield os.path.relpath(path, base), status


def read_bytes(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Return the content of a file, or some bytes of it.

    Parameters
    ----------
    path : str
        The file.
    start, stop : int, optional
        First byte, and the byte after the last; see `Files.read`.
    """
    if start is None:
        return Path(path).read_bytes()
    with Path(path).open("rb") as file:
        if start < 0:
            start = max(0, file.seek(0, os.SEEK_END) + start)
        file.seek(start)
        return file.read(-1 if stop is None else max(0, stop - start))


def flush_files(paths: Sequence[str]) -> None:
    """Flush files to the disk; files that have been removed since are skipped.

    Parameters
    ----------
    paths : sequence of str
        Paths of the files.
    """
    # Concurrently: a file system flushes what is requested at the same time in one go.
    list(_flush_threads(os.getpid()).map(_flush_path, paths))


@functools.lru_cache(maxsize=1)
def _flush_threads(_pid: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a fork has none of its parent's."""
    return ThreadPoolExecutor(_CONCURRENT_FLUSHES, "flush")


def _flush_path(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # removed since
    try:
        atomic.FLUSH(handle)
    finally:
        os.close(handle)


def replace_file(path: str, content: bytes | IO[bytes], *, flush: bool = True) -> None:
    """Write a file whole or not at all. Its folder is made if it is absent.

    Parameters
    ----------
    path : str
        The file to make or replace.
    content : bytes or binary file
        Its content.
    flush : bool
        Whether the content is flushed before the file gets its name, rather than later by `flush_files`.
        Default: True.
    """

    def write(temporary: Path) -> None:
        with _create(temporary) as handle:
            if isinstance(content, bytes):
                handle.write(content)
            else:
                shutil.copyfileobj(content, handle, 2**24)

    atomic.replace_atomically(path, write, flush=flush)


def create_file(path: str, content: bytes) -> bool:
    """Write a file that must not exist yet, whole or not at all. Its folder is made if it is absent.

    A hidden file gets its name by a hard link, which fails if the name is taken. File systems without hard links
    may show the file while it is written.

    Parameters
    ----------
    path : str
        The file to make.
    content : bytes
        Its content.

    Returns
    -------
    bool
        False if the file exists; it is left as it is.
    """
    temporary = Path(hidden_sibling(path))
    try:
        with _create(temporary) as handle:
            handle.write(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            with Path(path).open("xb") as handle:
                handle.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_path(path: str) -> None:
    """Remove a file, or a folder with all in it. Raises FileNotFoundError if it is absent.

    Parameters
    ----------
    path : str
        Path of the file or folder.
    """
    target = Path(path)
    if target.is_dir() and not target.is_symlink():
        # Hidden first, so that an interrupted removal never leaves half a volume that looks whole.
        hidden = hidden_sibling(path)
        target.rename(hidden)
        shutil.rmtree(hidden)
    else:
        target.unlink()


def _create(path: Path) -> IO[bytes]:
    """Open a new file for writing; make its folder if it is absent."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")

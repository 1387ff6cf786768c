"""Local files that are written whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_local_file(path: str, write: Callable[[Path], object]) -> None:
    """Write a local file whole or not at all; see `membrain_cloud.atomic.replace_atomically`.

    Parameters
    ----------
    path : str
        The file to make or replace. Its folder must exist.
    write : callable
        Writes the file at the path that it is given.

    Raises
    ------
    StorageError
        If the disk is full or read-only, or permission is missing.
    TransientError
        If writing fails in another way.
    """
    try:
        replace_atomically(path, write)
    except OSError as error:
        raise storage_error(error, path) from error

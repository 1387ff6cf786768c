"""Replace local files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
"""Names of files that are not whole yet, as `hidden_sibling` makes them."""

FLUSH: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Bring a file's content and size to the disk. Its time stamp is not needed and would cost a second write."""


def hidden_sibling(path: str | Path) -> str:
    """Return a new hidden name in the same folder as `path`, so on the same file system; `TEMPORARY` matches it.

    Parameters
    ----------
    path : str or Path
        The path that the hidden file is to replace.
    """
    path = Path(path)
    return str(path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp"))


def replace_atomically(path: str | Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Write a file under a hidden name, then give it its own name.

    Readers see the old content or the whole new one, also after a loss of power.

    Parameters
    ----------
    path : str or Path
        The file to make or replace. Its folder must exist.
    write : callable
        Writes the file at the path that it is given.
    flush : bool
        Whether the content is brought to the disk before the file gets its name. Default: True.

    Raises
    ------
    OSError
        If writing or renaming fails. The old file is as it was, and the hidden one is removed.
    """
    temporary = Path(hidden_sibling(path))
    try:
        write(temporary)
        if flush:
            handle = os.open(temporary, os.O_RDONLY)
            try:
                FLUSH(handle)
            finally:
                os.close(handle)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise

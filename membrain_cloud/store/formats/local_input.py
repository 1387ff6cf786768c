"""Local files that are read: what is no file, or cannot be opened, is refused with the system's words."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from membrain_cloud.errors import InputError, ProjectError

if TYPE_CHECKING:
    import os

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular_file(path: str | os.PathLike[str], error: type[InputError] = ProjectError) -> int:
    """Check that a path names a file; a pipe would block its reader, and a device has no end.

    Parameters
    ----------
    path : str or path
        A local path; links are followed.
    error : type of InputError
        What is raised. Default: ProjectError.

    Returns
    -------
    int
        The file's size in bytes.

    Raises
    ------
    InputError
        Of the type `error`, if the path is missing, cannot be looked at, or names something else.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as cause:  # ValueError: a zero byte in the name
        raise error(unreadable(path, cause), "check the path and its permissions") from cause
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "no file")
        raise error(f"{path}: it is {kind}, not a file", "give a file")
    return status.st_size


def unreadable(path: str | os.PathLike[str], cause: BaseException) -> str:
    """Return a sentence that a file cannot be read, with the system's words.

    Parameters
    ----------
    path : str or path
        The file.
    cause : exception
        What the system raised.

    Returns
    -------
    str
    """
    words = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(cause)
    if isinstance(cause, FileNotFoundError):
        dangling = Path(path).is_symlink()
        return f"{path}: {'the link points to a file that is not there' if dangling else 'there is no such file'}"
    return f"{path}: cannot be read ({words})"


def path_exists(path: str | os.PathLike[str]) -> bool:
    """Return whether something is at a path; what cannot be looked at is as if it were not there.

    Parameters
    ----------
    path : str or path
        A local path.

    Returns
    -------
    bool
    """
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def read_file(path: str | os.PathLike[str], error: type[InputError] = ProjectError) -> bytes:
    """Return the bytes of a local file.

    Parameters
    ----------
    path : str or path
        The file.
    error : type of InputError
        What is raised. Default: ProjectError.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        Of the type `error`, if it is no file or cannot be read.
    """
    check_regular_file(path, error)
    try:
        return Path(path).read_bytes()
    except OSError as cause:
        raise error(unreadable(path, cause), "check the path and its permissions") from cause

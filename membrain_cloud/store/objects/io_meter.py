"""Count what a task reads and writes, and flush it to the disk."""

from __future__ import annotations

import hashlib
import threading

from membrain_cloud.store.objects.error_mapping import translated_errors
from membrain_cloud.store.objects.local_files import flush_files


class Meter:
    """Counts what goes through some `Files`. Threads may share it.

    Parameters
    ----------
    late : bool
        Whether objects on a local disk are flushed all at once by `flush`, rather than each when it is written, which
        takes four times as long. Data are durable only after `flush`. Default: False.

    Attributes
    ----------
    bytes_read, bytes_written : int
        Bytes of the objects that were read and written.
    objects : dict
        Size in bytes and checksum of each object as it was last written, by name relative to the root.
    """

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self._unflushed: dict[str, None] = {}
        self.bytes_read = 0
        self.bytes_written = 0
        self.objects: dict[str, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def note_read(self, size: int) -> None:
        """Count an object of `size` bytes that was read.

        Parameters
        ----------
        size : int
            Bytes read.
        """
        with self._lock:
            self.bytes_read += size

    def note_written(self, name: str, content: bytes) -> None:
        """Count an object that was written.

        Parameters
        ----------
        name : str
            Name of the object relative to the root.
        content : bytes
            Its content.
        """
        digest = checksum(content)
        with self._lock:
            self.bytes_written += len(content)
            self.objects[name.strip("/")] = len(content), digest

    def note_unflushed(self, path: str) -> None:
        """Remember a local file that `flush` is to flush.

        Parameters
        ----------
        path : str
            Path of the file.
        """
        with self._lock:
            self._unflushed[path] = None

    def note_removed(self, name: str) -> None:
        """Forget an object that was removed, and all below its name.

        Parameters
        ----------
        name : str
            Name of the object or folder relative to the root.
        """
        with self._lock:
            removed = [key for key in self.objects if key == name or key.startswith(f"{name}/")]
            for key in removed:
                del self.objects[key]

    def flush(self) -> None:
        """Flush all that was written to the disk; raise StorageError if the disk refuses it."""
        with self._lock:
            paths, self._unflushed = list(self._unflushed), {}
        if paths:
            with translated_errors(f"{len(paths)} files, the first of them {paths[0]}", "written"):
                flush_files(paths)


def checksum(content: bytes) -> str:
    """Return the BLAKE2b hash of an object's content, 16 bytes as hexadecimal digits.

    Parameters
    ----------
    content : bytes
        Content of the object.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()

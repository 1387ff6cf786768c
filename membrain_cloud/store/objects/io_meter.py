"""What a task has read and written: counted, summed, and brought to the disk."""

from __future__ import annotations

import hashlib
import threading

from membrain_cloud.store.objects.error_mapping import faults
from membrain_cloud.store.objects.local_files import flush_files


class Meter:
    """What went through some `Files`: bytes read and written, and what lies there now because of it.

    objects : size in bytes and checksum of each object as it was last written, by name relative to the root.
    late : what is written to a local disk is brought to the disk all at once, by `flush`, and not object by object:
    that is four times as fast. Until then nothing may vouch for it that is to outlive a loss of power.
    Threads may share it.
    """

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self._unflushed: dict[str, None] = {}
        self.bytes_read = 0
        self.bytes_written = 0
        self.objects: dict[str, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def note_read(self, size: int) -> None:
        with self._lock:
            self.bytes_read += size

    def note_written(self, name: str, content: bytes) -> None:
        summed = checksum(content)
        with self._lock:
            self.bytes_written += len(content)
            self.objects[name.strip("/")] = len(content), summed

    def note_unflushed(self, path: str) -> None:
        with self._lock:
            self._unflushed[path] = None

    def flush(self) -> None:
        """Return when all that was written is on the disk. StorageError where it cannot be brought there."""
        with self._lock:
            paths, self._unflushed = list(self._unflushed), {}
        if paths:
            with faults(f"{len(paths)} files, the first of them {paths[0]}", "written"):
                flush_files(paths)

    def note_removed(self, name: str) -> None:
        with self._lock:
            gone = [known for known in self.objects if known == name or known.startswith(f"{name}/")]
            for known in gone:
                del self.objects[known]


def checksum(content: bytes) -> str:
    """BLAKE2b of an object's bytes, 16 bytes, hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()

"""The exceptions of membrain_cloud. Each names the thing, the cause and the next step.

MembrainCloudError
├── UsageError            an option or a setting is not valid                      (exit code 2)
├── InputError            the input is bad: never retried
│   ├── ProjectError      not a copick config, no such run, no such annotation
│   ├── BadNameError      a name that must not become a path
│   ├── TomogramError     empty, constant, NaN, a data type that cannot be read
│   ├── VoxelSpacingError missing or absurd voxel spacing
│   └── ChunkError        a chunk is missing, truncated or cannot be decoded
├── ModelError            a checkpoint or model file that is not valid
├── StorageError          writing failed for good: read-only, disk full, no permission
└── TransientError        a transient fault (503, lost connection): retried
    └── UnfinishedError   a volume that is being written lacks a part
"""

from __future__ import annotations

import errno

from membrain_cloud.redaction import without_keys


class MembrainCloudError(Exception):
    """Base of all errors that a user can meet.

    Parameters
    ----------
    message : str
        What is wrong, and with which thing.
    next_step : str
        What the user can do about it; empty only where nothing can be done.

    Notes
    -----
    Keys in URLs are removed from both, since messages are stored and shown in many places.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        message, next_step = without_keys(message), without_keys(next_step)
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} -> {self.next_step}" if self.next_step else self.message


class UsageError(MembrainCloudError):
    """An option or a setting is not valid."""


class InputError(MembrainCloudError):
    """The input is bad; a retry cannot help."""


class ProjectError(InputError):
    """Not a copick config, no such run, no such annotation."""


class BadNameError(InputError):
    """A name from outside that must not become a path."""


class TomogramError(InputError):
    """A tomogram that is empty, constant, holds NaN or has a data type that cannot be read."""


class VoxelSpacingError(InputError):
    """A missing or absurd voxel spacing."""


class ChunkError(InputError):
    """A chunk is missing, truncated or cannot be decoded."""


class ModelError(MembrainCloudError):
    """A checkpoint or a model file that is not valid."""


class StorageError(MembrainCloudError):
    """Writing failed for good."""


class TransientError(MembrainCloudError):
    """A transient fault: the task is retried."""


class UnfinishedError(TransientError):
    """A volume that is being written lacks a part: another run is writing it again, or the part was left out."""


_LASTING_WRITE_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space and run again: finished tasks are kept",
    errno.EDQUOT: "the quota is used up; free some space and run again: finished tasks are kept",
    errno.EROFS: "the file system is read-only; give a writable overlay (or set output.tables)",
    errno.EACCES: "no permission to write; give a writable overlay (or set output.tables)",
    errno.EPERM: "no permission to write; give a writable overlay (or set output.tables)",
}


def storage_error(error: OSError, what: str) -> MembrainCloudError:
    """Turn an OSError of a write into a StorageError with the cure, or into a TransientError.

    Parameters
    ----------
    error : OSError
        The system's error.
    what : str
        What was written.

    Returns
    -------
    MembrainCloudError
        StorageError where a retry cannot help, else TransientError.
    """
    cure = _LASTING_WRITE_FAULTS.get(error.errno or 0)
    if cure is not None:
        return StorageError(f"{what}: cannot be written ({error.strerror})", cure)
    return TransientError(f"{what}: writing failed ({error})", "it is tried again; if it stays, check the store")

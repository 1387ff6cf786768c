"""The exceptions of membrain_cloud. Each names the thing, the cause and the next step.

MembrainCloudError
├── UsageError            an option or a setting makes no sense                    (exit code 2)
├── InputError            the input is bad and stays bad: never retried
│   ├── ProjectError      not a copick config, no such run, no such annotation
│   ├── BadNameError        a name that must not become a path
│   ├── TomogramError     empty, constant, NaN, a data type we cannot read
│   ├── VoxelSpacingError missing or absurd voxel spacing
│   └── ChunkError        a chunk is missing, truncated or cannot be decoded
├── ModelError            a checkpoint or model file that is not what it should be
├── StorageError          writing failed for good: read-only, disk full, no permission
└── TransientError        a fault that passes (503, lost connection): worth a retry
    └── UnfinishedError   a volume that is being written lacks a part
"""

from __future__ import annotations

import errno

from membrain_cloud.redaction import without_keys


class MembrainCloudError(Exception):
    """Base of all errors a user can meet.

    Parameters
    ----------
    message : what is wrong, and with which thing.
    next_step : what the user can do about it; empty only where there is nothing to say.
    Keys in URLs are taken out of both: messages are kept and shown in many places.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        message, next_step = without_keys(message), without_keys(next_step)
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} -> {self.next_step}" if self.next_step else self.message


class UsageError(MembrainCloudError):
    """An option or a setting makes no sense."""


class InputError(MembrainCloudError):
    """The input is bad and stays bad."""


class ProjectError(InputError):
    """Not a copick config, no such run, no such annotation."""


class BadNameError(InputError):
    """A name from outside that must not become a path."""


class TomogramError(InputError):
    """A tomogram that is empty, constant, holds NaN or has a data type we cannot read."""


class VoxelSpacingError(InputError):
    """A missing or absurd voxel spacing."""


class ChunkError(InputError):
    """A chunk is missing, truncated or cannot be decoded."""


class ModelError(MembrainCloudError):
    """A checkpoint or a model file that is not what it should be."""


class StorageError(MembrainCloudError):
    """Writing failed for good."""


class TransientError(MembrainCloudError):
    """A fault that passes by itself: the task is tried again."""


class UnfinishedError(TransientError):
    """A volume that is being written lacks a part: another run is making it anew, or the part was left out."""


_LASTING_WRITE_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space and run again: finished tasks are kept",
    errno.EDQUOT: "the quota is used up; free some space and run again: finished tasks are kept",
    errno.EROFS: "the file system is read-only; give a writable overlay (or --tables URL)",
    errno.EACCES: "no permission to write; give a writable overlay (or --tables URL)",
    errno.EPERM: "no permission to write; give a writable overlay (or --tables URL)",
}


def storage_error(error: OSError, what: str) -> MembrainCloudError:
    """Turn an OSError met while writing `what` into a StorageError with the cure, or a TransientError."""
    cure = _LASTING_WRITE_FAULTS.get(error.errno or 0)
    if cure is not None:
        return StorageError(f"{what}: cannot be written ({error.strerror})", cure)
    return TransientError(f"{what}: writing failed ({error})", "it is tried again; if it stays, check the store")

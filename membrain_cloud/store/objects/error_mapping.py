"""Errors of disks and object stores, translated to the errors of this package."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from membrain_cloud.errors import MembrainCloudError, StorageError, TransientError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

# HTTP status codes that a retry does not change.
_LASTING_STATUS = {400, 401, 403, 405, 410, 451}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "CredentialUnavailableError",
}
_T = TypeVar("_T")
_CHANGES = ("written", "removed")


@contextlib.contextmanager
def translated_errors(what: str, done: str) -> Iterator[None]:
    """Translate errors of a store into errors that name thing, cause and next step.

    FileNotFoundError passes unchanged, unless it is the bucket that is absent or the object was to be written.

    Parameters
    ----------
    what : str
        The object, by its URL.
    done : str
        The operation as a participle: `read`, `written`, `removed`, `listed`, `looked up` or `opened`.

    Raises
    ------
    StorageError
        For a fault that stays: no permission, no such bucket, a full disk, no credentials.
    TransientError
        For a fault that may pass.
    """
    try:
        yield
    except MembrainCloudError:
        raise
    except Exception as error:
        translated = _translate(error, what, done)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, what: str, done: str) -> MembrainCloudError | None:
    """Return the error to raise instead, or None to let it pass."""
    if isinstance(error, FileNotFoundError):
        return _absence(error, what, done)
    if isinstance(error, PermissionError):
        if done in _CHANGES:
            return storage_error(error if error.errno else PermissionError(13, str(error)), what)
        return StorageError(
            f"{what}: cannot be {done} (no permission: {error})",
            "check the credentials and the permissions of the store; nothing was replaced by zeros",
        )
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs's words for a 403
        return _refusal(error, what, done)
    if isinstance(error, OSError):
        return storage_error(error, what) if done in _CHANGES else _transient(error, what, done)
    return _translate_client(error, what, done)


def _absence(error: FileNotFoundError, what: str, done: str) -> MembrainCloudError | None:
    if is_bucket_absent(error):
        return StorageError(
            f"{what}: cannot be {done} (there is no such bucket, or not any more)",
            "check the bucket's name in the config; finished tasks are kept where they are",
        )
    if done == "written":
        return StorageError(f"{what}: cannot be written ({error})", "check the address of the store")
    return None


def _translate_client(error: Exception, what: str, done: str) -> MembrainCloudError | None:
    """Return the error for an exception of a store's client (botocore, aiohttp), which is not an OSError."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return StorageError(
            f"{what}: cannot be {done} ({error})",
            "give credentials: overlay_fs_args in the config, or the environment",
        )
    if _status(error) in _LASTING_STATUS:
        return _refusal(error, what, done)
    if type(error).__module__.split(".")[0] in ("builtins", "fsspec"):
        return None
    return _transient(error, what, done)


def _status(error: Exception) -> object:
    """Return the HTTP status of a client's error: aiohttp's `status`, Azure's `status_code`, Google's `code`."""
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int | str) and str(status).isdigit():
            return int(status)
    return None


def _refusal(error: Exception, what: str, done: str) -> StorageError:
    return StorageError(
        f"{what}: cannot be {done} ({error})",
        "check the address and the permissions of the store; nothing was replaced by zeros",
    )


def _transient(error: Exception, what: str, done: str) -> TransientError:
    return TransientError(f"{what}: cannot be {done} ({error})", "it is tried again; if it stays, check the store")


def is_bucket_absent(error: BaseException) -> bool:
    """Return whether an error of S3, or one that caused it, says that the bucket is absent.

    Parameters
    ----------
    error : BaseException
        The error, with its causes.
    """
    cause: BaseException | None = error
    while cause is not None:
        if "NoSuchBucket" in str(cause) or "bucket does not exist" in str(cause):
            return True
        cause = cause.__cause__
    return False


def unless_bucket_absent(error: OSError, answer: _T) -> _T:
    """Return `answer`, unless it is the bucket that is absent; then raise the error.

    Parameters
    ----------
    error : OSError
        The error of a request.
    answer : object
        What the request returns for an absent object.
    """
    if is_bucket_absent(error):
        raise error
    return answer

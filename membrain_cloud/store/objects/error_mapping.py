"""What stores answer when they cannot do it, as errors that say what to do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from membrain_cloud.errors import MembrainCloudError, StorageError, TransientError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

# Answers of a web server that asking again does not change.
_REFUSED_STATUS = {400, 401, 403, 405, 410, 451}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}


@contextlib.contextmanager
def faults(what: str, done: str) -> Iterator[None]:
    """Let FileNotFoundError through and turn every other fault of a store into an error that says what to do."""
    try:
        yield
    except MembrainCloudError:
        raise
    except FileNotFoundError as error:
        if lacks_bucket(error):
            raise StorageError(
                f"{what}: cannot be {done} (there is no such bucket, or not any more)",
                "check the bucket's name in the config; finished tasks are kept where they are",
            ) from error
        if done == "written":
            raise StorageError(f"{what}: cannot be written ({error})", "check the address of the store") from error
        raise
    except PermissionError as error:
        if done in ("written", "removed"):
            raise storage_error(_with_errno(error), what) from error
        raise StorageError(
            f"{what}: cannot be {done} (no permission: {error})",
            "check the credentials and the permissions of the store; nothing was replaced by zeros",
        ) from error
    except OSError as error:
        if done in ("written", "removed"):
            raise storage_error(error, what) from error
        raise passing(what, done, error) from error
    except Exception as error:
        # Clients of object stores raise their own kinds (botocore, aiohttp), not OSError.
        if type(error).__name__ in _NO_CREDENTIALS:
            raise StorageError(
                f"{what}: cannot be {done} ({error})",
                "give credentials: overlay_fs_args in the config, or the environment",
            ) from error
        if getattr(error, "status", None) in _REFUSED_STATUS:
            raise StorageError(
                f"{what}: cannot be {done} ({error})",
                "check the address and the permissions of the store; nothing was replaced by zeros",
            ) from error
        if type(error).__module__.split(".")[0] in ("builtins", "fsspec"):
            raise
        raise passing(what, done, error) from error


def lacks_bucket(error: BaseException) -> bool:
    """Whether an error of S3 is about the bucket rather than about an object in it."""
    found: BaseException | None = error
    while found is not None:
        if "NoSuchBucket" in str(found) or "bucket does not exist" in str(found):
            return True
        found = found.__cause__
    return False


def _with_errno(error: PermissionError) -> PermissionError:
    return error if error.errno else PermissionError(13, str(error))


def passing(what: str, done: str, error: Exception) -> TransientError:
    return TransientError(f"{what}: cannot be {done} ({error})", "it is tried again; if it stays, check the store")

"""Errors of disks and stores become errors that say whether a retry helps; only absence passes unchanged."""

from __future__ import annotations

import errno

import pytest

from membrain_cloud.errors import ProjectError, StorageError, TransientError
from membrain_cloud.store.objects.error_mapping import is_bucket_absent, translated_errors


class ClientError(Exception):
    """An error of a store's client, which is not an OSError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class NoCredentialsError(Exception):
    """Named as botocore's."""


ClientError.__module__ = NoCredentialsError.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "done", "translated"),
    [
        (PermissionError("403"), "read", StorageError),
        (PermissionError("403"), "written", StorageError),
        (FileNotFoundError("The specified bucket does not exist"), "read", StorageError),
        (FileNotFoundError("x"), "written", StorageError),
        (OSError(errno.ENOSPC, "full"), "written", StorageError),
        (OSError(errno.EIO, "input/output error"), "written", TransientError),
        (OSError("reset"), "read", TransientError),
        (ClientError(403), "read", StorageError),
        (OSError("Forbidden: https://x\nno access"), "written", StorageError),
        (ClientError(503), "read", TransientError),
        (NoCredentialsError("none"), "listed", StorageError),
    ],
)
def test_faults_are_translated(error: Exception, done: str, translated: type[Exception]) -> None:
    with pytest.raises(translated, match=r"^s3://b/x: ") as caught, translated_errors("s3://b/x", done):
        raise error
    assert caught.value.__cause__ is error or isinstance(error, PermissionError)
    assert caught.value.next_step  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ValueError("a bug"), ProjectError("ours", "cure")])
def test_absence_bugs_and_our_own_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated_errors("s3://b/x", "read"):
        raise error
    assert caught.value is error


def test_an_absent_bucket_is_found_among_the_causes() -> None:
    outer = OSError("upload failed")
    outer.__cause__ = ValueError("NoSuchBucket")
    assert is_bucket_absent(outer)
    assert not is_bucket_absent(FileNotFoundError("NoSuchKey"))

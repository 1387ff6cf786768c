"""A check that fails does not end the others of its kind before it, and names its cure."""

from collections.abc import Iterator

import pytest

from membrain_cloud.errors import StorageError
from membrain_cloud.pipeline.diagnosis.check import Check, run_checks

FIRST = Check("first", "ok", "works")


def checks_that_raise(error: Exception) -> Iterator[Check]:
    yield FIRST
    raise error


def test_an_error_becomes_a_failed_check_with_its_cure() -> None:
    checks = list(run_checks("store", lambda: checks_that_raise(StorageError("s3://b: no permission", "ask for it"))))
    assert checks == [FIRST, Check("store", "failed", "s3://b: no permission", "ask for it")]


def test_a_missing_package_becomes_a_failed_check() -> None:
    error = ModuleNotFoundError("No module named 'neuroglancer'", name="neuroglancer")
    *_, last = run_checks("viewer", lambda: checks_that_raise(error))
    assert last.state == "failed"
    assert "membrain_cloud[view]" in last.cure


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_checks("store", lambda: checks_that_raise(ZeroDivisionError())))

"""Checks of Python, packages and extras."""

import importlib.metadata

import pytest

from membrain_cloud.pipeline.diagnosis.installation import check_installation, check_packages


def test_this_installation_is_in_order() -> None:
    checks = {check.subject: check for check in check_installation()}
    assert checks["Python"].state == checks["packages"].state == "ok"
    assert {"extra s3", "extra view", "extra exchange"} <= checks.keys()


def test_packages_that_are_absent_or_too_old_are_named() -> None:
    check = check_packages(["numpy>=1", "numpy>=99", "a-package-of-nobody", "another>=1; extra == 'test'"])
    assert check.state == "failed"
    assert (
        check.detail
        == f"numpy {importlib.metadata.version('numpy')}, required is >=99; a-package-of-nobody is not installed"
    )


def test_an_extra_that_is_not_installed_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membrain_cloud.pipeline.diagnosis.installation.missing_modules", lambda extra: ["h5py"])
    checks = [check for check in check_installation() if check.subject == "extra exchange"]
    assert [(check.state, "h5py" in check.detail) for check in checks] == [("absent", True)]
    assert "membrain_cloud[exchange]" in checks[0].cure

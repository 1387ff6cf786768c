"""Checks of a project and of the stores that results go to."""

from pathlib import Path

import numpy as np
import pytest

from membrain_cloud.pipeline.diagnosis.check import run_checks
from membrain_cloud.pipeline.diagnosis.stores import check_project, check_temporary_folder, check_writing
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef


def test_a_project_in_order_is_left_as_it_was(tmp_path: Path) -> None:
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None)])
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), np.zeros((8, 8, 8), np.float32))
    before = sorted(tmp_path.rglob("*"))
    checks = list(check_project(project))
    assert [(check.subject, check.state) for check in checks] == [("project", "ok"), ("results", "ok")]
    assert "1 runs" in checks[0].detail
    assert sorted(tmp_path.rglob("*")) == before


def test_a_project_without_runs_is_a_failure(tmp_path: Path) -> None:
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None)])
    assert [check.state for check in check_project(project)] == ["failed", "ok"]


class CarelessFiles(Files):
    """A store whose conditional writes replace what exists, and which lists nothing."""

    def create(self, name: str, content: bytes) -> bool:
        self.write(name, content)
        return True

    def listing(self, name: str = "") -> dict:
        return {}


def test_a_store_without_conditional_writes_is_a_failure(tmp_path: Path) -> None:
    (check,) = check_writing(CarelessFiles(str(tmp_path)), "results")
    assert check.state == "failed"
    assert "replaced by a conditional write" in check.detail
    assert "not listed at once" in check.detail
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_a_failed_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in place of a folder")
    (check,) = run_checks("results", lambda: check_writing(Files(str(tmp_path / "file")), "results"))
    assert check.state == "failed"
    assert str(tmp_path / "file") in check.detail


def test_a_full_temporary_folder_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("membrain_cloud.pipeline.diagnosis.stores._FREE_BYTES", 2**80)
    (check,) = check_temporary_folder()
    assert check.state == "warning"
    assert "TMPDIR" in check.cure


def test_a_temporary_folder_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    (check,) = run_checks("temporary folder", check_temporary_folder)
    assert check.state == "failed"

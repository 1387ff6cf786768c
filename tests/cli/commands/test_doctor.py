"""The command `doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from standins.command_line import call

from membrain_cloud.cli.commands.doctor import doctor
from membrain_cloud.cli.program import main
from membrain_cloud.pipeline.diagnosis import devices
from membrain_cloud.pipeline.diagnosis.check import Check

if TYPE_CHECKING:
    import pytest

    from membrain_cloud.store.projects.project import Project


def test_doctor_checks_a_project_and_ends_with_0(vesicles: Project) -> None:
    result = call("doctor", vesicles.config, "--json")
    checks = {check["subject"]: check["state"] for check in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert checks.keys() >= {"Python", "packages", "memory", "CPU", "project", "results", "temporary folder"}
    assert checks["model membrain-cloud-small"] == checks["model membrain-cloud-picker"] == "ok"
    assert "failed" not in checks.values()


def test_a_failed_check_names_its_cure_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "check_devices", lambda model: [Check("GPU", "failed", "unseen", "update the driver")])
    result = call("doctor", "/no/such/config.json")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "-> update the driver" in lines[lines.index(next(line for line in lines if "unseen" in line)) + 1]
    assert "/no/such/config.json" in result.stdout
    assert "model membrain-cloud-small" in result.stdout
    assert "2 of" in result.stderr


def test_a_bad_setting_is_refused_before_any_check() -> None:
    result = call("doctor", "--set", "segment.nothing=1")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_doctor_is_listed_under_maintenance() -> None:
    assert main.commands["doctor"] is doctor
    assert "doctor" in main.sections["Maintenance"]

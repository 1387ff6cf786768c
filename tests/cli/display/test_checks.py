"""A check on the terminal: its state first, its cure on a line of its own."""

import pytest

from membrain_cloud.cli.display.checks import show_check
from membrain_cloud.pipeline.diagnosis.check import Check


def test_a_check_in_order_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_check(Check("memory", "ok", "23.5 GiB"))
    assert capsys.readouterr().out == "ok      memory               23.5 GiB\n"


def test_a_failed_check_is_followed_by_its_cure(capsys: pytest.CaptureFixture[str]) -> None:
    show_check(Check("GPU", "failed", "is not seen", "update the driver"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("failed  GPU ")
    assert second.strip() == "-> update the driver"

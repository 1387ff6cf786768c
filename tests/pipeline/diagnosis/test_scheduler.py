"""Versions of packages on workers against this process's; the answers of a real scheduler are in test_services."""

from membrain_cloud.pipeline.diagnosis.scheduler import version_differences


def test_equal_versions_are_no_difference() -> None:
    versions = {"membrain_cloud": "0.2.0", "torch": None}
    assert version_differences(versions, [versions, dict(versions)]) == {}


def test_packages_beyond_those_that_must_agree_are_left_out() -> None:
    assert version_differences({"pandas": "2"}, [{"pandas": "3"}]) == {}

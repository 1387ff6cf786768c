"""The sections `pick`, `output`, `run`, `plan` and `portal`: limits and names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from membrain_cloud.pipeline.settings.pick import PickSettings
from membrain_cloud.pipeline.settings.run import OutputSettings, PlanSettings, PortalSettings, RunSettings


def test_model_and_cache_do_not_enter_the_digest_of_picks() -> None:
    default = PickSettings().digest_settings()
    assert PickSettings(model="mine.safetensors", cache="/tmp/cache").digest_settings() == default
    assert PickSettings(threshold=5.0).digest_settings() != default


def test_null_is_no_limit() -> None:
    settings = PickSettings.model_validate({"largest_nm2": "null", "min_distance_angstrom": None})
    assert settings.largest_nm2 is None
    assert settings.min_distance_angstrom is None


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        OutputSettings(user=name)


def test_limits_are_positive() -> None:
    for change in ({"task_hours": 0}, {"deaths": 0}, {"requeues": -1}):
        with pytest.raises(ValidationError):
            RunSettings.model_validate(change)
    with pytest.raises(ValidationError):
        PlanSettings(cpu_workers=0)
    assert PlanSettings(gpu_workers=0).gpu_workers == 0


@pytest.mark.parametrize("bucket", ["mirror", "://x", ""])
def test_a_mirror_is_a_url_or_an_absolute_path(bucket: str) -> None:
    with pytest.raises(ValidationError):
        PortalSettings(bucket=bucket)
    assert PortalSettings(bucket="/data/mirror").bucket == "/data/mirror"

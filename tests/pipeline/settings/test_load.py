"""Settings from files and single values, and the errors for wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings.load import Settings, load_settings, settings_from

if TYPE_CHECKING:
    from pathlib import Path


def test_single_values_win_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("segment: {threshold: 0.5, mirrors: no}\nmeasure: {cutoff_nm: 30}\n")
    settings = load_settings(file, ["segment.threshold=0.75", "pick.object=psii"])
    assert settings.segment.threshold == 0.75
    assert settings.segment.effective_mirrors == "no"
    assert settings.measure.cutoff_nm == 30
    assert settings.pick.object == "psii"
    assert settings.separate == Settings().separate


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("segment.treshold=1", "unknown setting segment.treshold", "threshold"),
        ("segment.bandwidth_angstrom=1", "segment.bandwidth_angstrom", "pick.bandwidth_angstrom"),
        ("sgment.threshold=1", "unknown setting sgment", "segment"),
        ("segment.overlap=2", "segment.overlap = '2'", "segment.overlap"),
        ("segment.overlap=nan", "segment.overlap", "segment.overlap"),
        ("segment.threshold=high", "segment.threshold = 'high'", "segment.threshold"),
        ("segment.mode=quick", "segment.mode", "segment.mode"),
        ("output.session=../x", "output.session", "output.session"),
        ("threshold=1", "'threshold=1': not of the form", "segment.threshold=0.5"),
        ("segment.threshold", "'segment.threshold': not of the form", "segment.threshold=0.5"),
    ],
)
def test_wrong_settings_are_refused_with_a_next_step(override: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(None, [override])
    assert message in caught.value.message
    assert hint in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("segment: [1, 2", "not YAML"),
        ("- a\n- b\n", "one mapping for each section"),
        ("segment: 3\n", "segment: expected a mapping of keys, got 3"),
        ("\xff\xfe", "not YAML"),
        ("ghost: {a: 1}", "unknown setting ghost"),
    ],
)
def test_a_bad_file_is_refused_with_a_next_step(tmp_path: Path, text: str, cause: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=cause) as caught:
        load_settings(file)
    assert caught.value.next_step


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml") as caught:
        load_settings(tmp_path / "absent.yaml")
    assert "readable" in caught.value.next_step


def test_settings_survive_json_and_yaml() -> None:
    settings = load_settings(None, ["segment.window=64", "measure.picks=psii:expert/1", "input.tomogram_type=wbp"])
    assert settings_from(yaml.safe_load(yaml.safe_dump(settings.as_dict()))) == settings


def test_null_restores_a_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("segment: {window: 64}\n")
    assert load_settings(file, ["segment.window=null"]).segment.window is None

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import Settings, load_settings, settings_from

if TYPE_CHECKING:
    from pathlib import Path


def test_overrides_win_over_the_file_which_wins_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("segment: {threshold: 0.5, mirrors: no}\nmeasure: {cutoff_nm: 30}\n")
    settings = load_settings(file, ["segment.threshold=0.75", "pick.object=psii"])
    assert settings.segment.threshold == 0.75
    assert settings.segment.effective_mirrors == "no"
    assert settings.measure.cutoff_nm == 30
    assert settings.pick.object == "psii"
    assert settings.separate == Settings().separate


def test_mode_sets_mirrors_and_precision_unless_they_are_given() -> None:
    fast = Settings().segment
    assert (fast.effective_mirrors, fast.effective_precision, fast.skip_void) == ("adaptive", "auto", True)
    exact = load_settings(None, ["segment.mode=exact"]).segment
    assert (exact.effective_mirrors, exact.effective_precision, exact.skip_void) == ("yes", "faithful", False)
    mixed = load_settings(None, ["segment.mirrors=yes", "segment.precision=float32"]).segment
    assert (mixed.effective_mirrors, mixed.effective_precision) == ("yes", "float32")


def test_settings_of_the_same_effect_have_one_digest() -> None:
    exact = load_settings(None, ["segment.mode=exact"]).segment
    assert (
        exact.digest_settings()
        == load_settings(None, ["segment.mode=exact", "segment.mirrors=yes"]).segment.digest_settings()
    )
    assert exact.digest_settings() != Settings().segment.digest_settings()


def test_uncertainty_without_mirrors_is_refused() -> None:
    with pytest.raises(UsageError, match="all eight mirrors"):
        load_settings(None, ["segment.uncertainty=yes"])
    assert load_settings(None, ["segment.uncertainty=yes", "segment.mode=exact"]).segment.uncertainty


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
        ("threshold=1", "not of the form", "--set"),
        ("segment.threshold", "not of the form", "--set"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(override: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(None, [override])
    assert message in caught.value.message
    assert hint in caught.value.next_step


@pytest.mark.parametrize("text", ["segment: [1, 2", "- a\n- b\n", "segment: 3\n", "\xff\xfe", "ghost: {a: 1}"])
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        load_settings(file)
    with pytest.raises(UsageError, match="absent"):
        load_settings(tmp_path / "absent.yaml")


def test_settings_survive_json_and_yaml() -> None:
    settings = load_settings(None, ["segment.window=64", "measure.picks=psii:expert/1", "input.tomogram_type=wbp"])
    assert settings_from(yaml.safe_load(yaml.safe_dump(settings.as_dict()))) == settings


def test_null_takes_a_value_back(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("segment: {window: 64}\n")
    assert load_settings(file, ["segment.window=null"]).segment.window is None


def test_what_does_not_decide_the_result_is_not_in_a_digest() -> None:
    base = Settings().segment.digest_settings()
    assert load_settings(None, ["segment.batch=4", "segment.block_voxels=1000"]).segment.digest_settings() == base
    explicit = load_settings(None, ["segment.overlap=0.5", "segment.mirrors=adaptive", "segment.precision=auto"])
    assert explicit.segment.digest_settings() == base
    assert load_settings(None, ["segment.threshold=1"]).segment.digest_settings() != base

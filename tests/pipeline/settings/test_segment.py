"""The section `segment`: what `mode` amounts to, and what affects the digest."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.settings.segment import InputSettings, SegmentSettings


def test_mode_sets_mirrors_and_precision_unless_they_are_given() -> None:
    fast = SegmentSettings()
    assert (fast.effective_mirrors, fast.effective_precision, fast.skip_void) == ("adaptive", "auto", True)
    exact = SegmentSettings(mode="exact")
    assert (exact.effective_mirrors, exact.effective_precision, exact.skip_void) == ("yes", "faithful", False)
    mixed = SegmentSettings(mirrors="yes", precision="float32")
    assert (mixed.effective_mirrors, mixed.effective_precision) == ("yes", "float32")


def test_settings_of_the_same_effect_have_one_digest() -> None:
    exact = load_settings(None, ["segment.mode=exact"]).segment.digest_settings()
    assert exact == load_settings(None, ["segment.mode=exact", "segment.mirrors=yes"]).segment.digest_settings()
    assert exact != SegmentSettings().digest_settings()


def test_settings_that_do_not_affect_results_are_not_in_the_digest() -> None:
    default = SegmentSettings().digest_settings()
    assert load_settings(None, ["segment.batch=4", "segment.block_voxels=1000"]).segment.digest_settings() == default
    explicit = load_settings(None, ["segment.overlap=0.5", "segment.mirrors=adaptive", "segment.precision=auto"])
    assert explicit.segment.digest_settings() == default
    assert SegmentSettings(threshold=1.0).digest_settings() != default


def test_uncertainty_without_mirrors_is_refused() -> None:
    with pytest.raises(UsageError, match="all eight mirrors"):
        load_settings(None, ["segment.uncertainty=yes"])
    assert load_settings(None, ["segment.uncertainty=yes", "segment.mode=exact"]).segment.uncertainty


def test_scores_are_kept_on_the_tomograms_voxels_only() -> None:
    with pytest.raises(UsageError, match=r"segment\.output_grid=tomogram"):
        load_settings(None, ["segment.scores=uint8", "segment.output_grid=level"])


def test_the_voxel_spacing_of_an_input_is_positive() -> None:
    with pytest.raises(ValidationError):
        InputSettings(voxel_spacing_angstrom=0.0)

"""Options of `membrain-cloud preprocess` as settings of the filters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from membrain_cloud.cli.commands import preprocess
from membrain_cloud.pipeline.preprocess.settings import (
    DeconvolutionSettings,
    Output,
    PixelSizeSettings,
    Resources,
    SpectrumSettings,
)


def defaults(group: type[Any], **values: Any) -> Any:
    """Return the group as without any option on the command line."""
    empty = {
        part.name: False if part.metadata["option"][1].get("is_flag") else None
        for part in dataclasses.fields(group)
        if part.default is dataclasses.MISSING
    }
    return group(**(empty | values))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (preprocess.PixelSizeOptions, PixelSizeSettings()),
        (preprocess.SpectrumOptions, SpectrumSettings()),
        (preprocess.DeconvolutionOptions, DeconvolutionSettings()),
    ],
)
def test_without_options_settings_have_their_defaults(group: type[Any], expected: Any) -> None:
    assert defaults(group).settings() == expected


def test_flags_turn_settings_off() -> None:
    assert defaults(preprocess.PixelSizeOptions, no_smooth=True).settings().smooth is False
    assert defaults(preprocess.SpectrumOptions, keep_almost_zero=True).settings().almost_zero_cutoff is False
    settings = defaults(preprocess.DeconvolutionOptions, no_lowpass=True, highpass=0.1).settings()
    assert (settings.lowpass, settings.highpass_cycles_per_voxel) == (False, 0.1)


def test_resources_and_output() -> None:
    assert defaults(preprocess.ResourceOptions).limits() == Resources()
    assert preprocess.DensityOutputOptions(output="a.mrc", overwrite=True, dtype="float16").file() == Output(
        "a.mrc", True, "float16"
    )
    assert preprocess.OutputOptions(output="a.mrc", overwrite=False).file() == Output("a.mrc")

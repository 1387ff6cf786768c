"""Options of `membrain-cloud train segmentation` as values of the recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from membrain_cloud.cli.commands.train.segmentation import SegmentationOptions
from membrain_cloud.errors import UsageError
from membrain_cloud.training.segmentation.config import SegmentationTraining


def options(**values: Any) -> SegmentationOptions:
    empty = {part.name: None for part in dataclasses.fields(SegmentationOptions)} | {
        "recipe": "built-in",
        "augment": (),
    }
    return SegmentationOptions(**(empty | values))


def test_without_options_every_value_is_the_recipes() -> None:
    assert options().values() == {}
    assert options().chances() == {}


def test_values_are_fields_of_the_training() -> None:
    given = {part.name: 1 for part in dataclasses.fields(SegmentationOptions)}
    given |= {"epochs": None, "channels": "8,16,32", "deep_supervision": True, "augment": ()}
    values = options(**given).values()
    assert set(values) <= {part.name for part in dataclasses.fields(SegmentationTraining)}
    assert values["channels"] == (8, 16, 32)
    assert len(values) == 21


@pytest.mark.parametrize(("given", "heads"), [(True, (1.0, 0.5, 0.25)), (False, (1.0,)), (None, None)])
def test_deep_supervision_sets_the_heads(given: bool | None, heads: tuple[float, ...] | None) -> None:
    assert options(deep_supervision=given).values().get("heads") == heads


def test_a_flag_that_is_off_is_a_value() -> None:
    assert options(mirror_symmetric=False, workers=0).values() == {"mirror_symmetric": False, "workers": 0}


def test_chances_of_augmentations() -> None:
    assert options(augment=("noise=0.5", "flip=1")).chances() == {"noise": 0.5, "flip": 1.0}
    with pytest.raises(UsageError, match="expected NAME=CHANCE"):
        options(augment=("noise",)).chances()

"""Options of `membrain-cloud train picking`: which belong to which source of membranes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from membrain_cloud.cli.commands.train.picking import PickerOptions, SourceOptions
from membrain_cloud.errors import UsageError

LISTS = ("runs", "validation_runs", "test_runs", "picks", "shapes")
PROJECT: dict[str, Any] = {"project": "config.json", "meshes": "membrane:alice/1", "picks": ("psii:alice/1",)}


def source(**values: Any) -> SourceOptions:
    empty: dict[str, Any] = {part.name: None for part in dataclasses.fields(SourceOptions)}
    return SourceOptions(**(empty | dict.fromkeys(LISTS, ()) | {"network": "profiles"} | values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "phantoms"),
        ({"phantoms": 3}, "phantoms"),
        ({"data": "folder", "classes": "a,b"}, "data"),
        (PROJECT, "project"),
    ],
)
def test_a_source_takes_its_own_options(values: dict[str, Any], expected: str) -> None:
    options = source(**values)
    options.check(incremental=False)
    assert options.source == expected


@pytest.mark.parametrize(
    ("values", "incremental", "cause"),
    [
        ({"data": "folder", "project": "config.json"}, False, "exclude each other"),
        ({"meshes": "membrane:alice/1"}, False, "add --project"),
        ({"network": "subvolumes"}, False, "add --project"),
        ({"voxel_spacing": 10.0}, False, "add --data"),
        ({"phantoms": 3}, True, "--phantoms"),
        ({"data": "folder", "cluttered": 0.0}, False, "--cluttered"),
        (PROJECT | {"classes": "a"}, False, "--picks NAME=URI"),
        ({"project": "config.json"}, False, "--meshes URI"),
    ],
)
def test_options_of_another_source_are_refused(values: dict[str, Any], incremental: bool, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        source(**values).check(incremental=incremental)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"shapes": ("80,40",)}, "--shape 80,40"),
        ({"shapes": ("0,1,1",)}, "--shape"),
        ({"picks": ("a:b/1", "c:d/1")}, "NAME=URI"),
    ],
)
def test_shapes_and_names_of_classes_are_checked(tmp_path: Any, values: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        source(**(PROJECT | values)).material(tmp_path)
    assert cause in str(caught.value)


def test_values_are_only_those_given() -> None:
    given = {part.name: None for part in dataclasses.fields(PickerOptions)} | {"output": "m", "work": "w"}
    assert PickerOptions(**given).values() == {}
    assert PickerOptions(**(given | {"seed": 3, "epochs": 2})).values() == {"epochs": 2, "seed": 3}

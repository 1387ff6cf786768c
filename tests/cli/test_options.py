"""Groups of options: their fields have the types that click gives, and commands get them as one object."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

import membrain_cloud.cli
from membrain_cloud.cli import copick_plugin
from membrain_cloud.cli.app import Command
from membrain_cloud.cli.options import (
    NetworkTrainingOptions,
    PlacementOptions,
    PlanOptions,
    SettingsOptions,
    absolute,
    integers,
    option,
    option_group,
    takes,
)
from membrain_cloud.errors import UsageError


def groups() -> list[type[Any]]:
    """Return every class made by `option_group`, by name."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.walk_packages(membrain_cloud.cli.__path__, "membrain_cloud.cli."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                parts = dataclasses.fields(value)
                if parts and all("option" in part.metadata for part in parts):
                    found[f"{value.__module__}.{value.__name__}"] = value
    return [found[name] for name in sorted(found)]


GROUPS = groups()


def click_option(part: dataclasses.Field[Any]) -> click.Option:
    names, attributes = part.metadata["option"]
    return click.Option([part.name, *names], **attributes)


def python_type(declared: click.Option) -> Any:
    """Return the type of one value of an option."""
    if declared.is_flag:
        return bool
    if isinstance(declared.type, click.Tuple):
        return tuple[tuple(float for _ in declared.type.types)]
    if isinstance(declared.type, click.Choice):
        return str
    single = {"integer": int, "integer range": int, "float": float, "float range": float}.get(declared.type.name, str)
    return single if declared.nargs == 1 else tuple[(single,) * declared.nargs]


def expected_type(part: dataclasses.Field[Any]) -> Any:
    """Return the annotation that a field needs for its option."""
    declared, attributes = click_option(part), part.metadata["option"][1]
    single = python_type(declared)
    if declared.multiple:
        return tuple[single, ...]
    default = attributes.get("default", False if declared.is_flag else None)
    return single if declared.required or default is not None else single | None


def plain(annotation: Any) -> Any:
    """Return an annotation with `str` in place of the literals of a choice."""
    return str if typing.get_origin(annotation) is Literal else annotation


def test_there_are_groups_for_all_commands() -> None:
    assert len(GROUPS) > 20
    assert PlanOptions in GROUPS


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_fields_have_the_types_that_click_gives(group: type[Any]) -> None:
    hints = typing.get_type_hints(group)
    for part in dataclasses.fields(group):
        assert plain(hints[part.name]) == expected_type(part), f"{group.__name__}.{part.name}"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_literals_are_the_choices(group: type[Any]) -> None:
    for name, hint in typing.get_type_hints(group).items():
        if typing.get_origin(hint) is Literal:
            part = next(part for part in dataclasses.fields(group) if part.name == name)
            declared = click_option(part)
            assert isinstance(declared.type, click.Choice)
            assert tuple(declared.type.choices) == typing.get_args(hint)


def commands(group: click.Group, *names: str) -> typing.Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


PLUGIN = {name: value for name, value in vars(copick_plugin).items() if isinstance(value, click.Command)}
ALL = dict(commands(membrain_cloud.cli.main)) | {f"copick {name}": command for name, command in PLUGIN.items()}


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_help_text_in_a_sentence(name: str) -> None:
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option):
            text = parameter.help or ""
            assert text.endswith((".", ").")), f"{parameter.opts}: {text!r}"
            assert text.split()[0] not in ("Of", "Its", "Their", "In"), f"{parameter.opts}: {text!r}"


@pytest.mark.parametrize("name", ALL)
def test_an_option_without_a_value_says_its_default(name: str) -> None:
    """Options that may be left out say what then happens; flags are off, and lists are empty."""
    for parameter in ALL[name].params:
        if not isinstance(parameter, click.Option) or parameter.required or parameter.multiple or parameter.is_flag:
            continue
        text = parameter.help or ""
        assert parameter.show_default or "default" in text or "Only" in text or "URI" in (parameter.metavar or ""), (
            f"{parameter.opts}: {text!r}"
        )


def test_a_command_gets_one_object_of_each_group() -> None:
    @option_group
    class Size:
        width: int = option("--width", type=int, default=3)
        names: tuple[str, ...] = option("--name", multiple=True)

    @option_group
    class Colour:
        colour: str | None = option("--colour")

    @click.command(cls=Command)
    @click.argument("file")
    @takes(Size, Colour)
    @click.option("--loud", is_flag=True)
    def paint(size: Size, colour: Colour, file: str, *, loud: bool) -> None:
        click.echo(f"{size.width} {size.names} {colour.colour} {file} {loud}")

    result = CliRunner().invoke(paint, ["a.png", "--name", "x", "--name", "y", "--loud"])
    assert result.output == "3 ('x', 'y') None a.png True\n"
    assert [parameter.name for parameter in paint.params][:5] == ["file", "width", "names", "colour", "loud"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Size(names=()).width = 4  # type: ignore[misc]


def test_settings_are_loaded_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("segment: {threshold: 1, window: 32}\nmesh: {smoothing_angstrom: 5}\n")
    options = SettingsOptions(settings_file=str(file), overrides=("segment.threshold=2", "segment.window=64"))
    settings = options.load("segment.window=96")
    assert (settings.segment.threshold, settings.segment.window, settings.mesh.smoothing_angstrom) == (2, 96, 5)


def test_tables_of_a_plan_are_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = PlanOptions(settings_file=None, overrides=("output.tables=elsewhere",), tables="here", stages=None)
    assert options.load().output.tables == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://bucket/a/../b", "s3://bucket/a/../b"), ("a/../b", "{here}/b"), ("/x//y/", "/x/y"), (".", "{here}")],
)
def test_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(path) == expected.format(here=Path.cwd())


@pytest.mark.parametrize("text", ["", "1,x", "1.5"])
def test_integers_refuse_other_text(text: str) -> None:
    assert integers("--channels", "8,16", "8,16") == (8, 16)
    with pytest.raises(UsageError, match="--channels"):
        integers("--channels", text, "8,16")


def training(**values: Any) -> NetworkTrainingOptions:
    defaults = {part.name: None for part in dataclasses.fields(NetworkTrainingOptions)} | {"recipe": "built-in"}
    return NetworkTrainingOptions(**(defaults | values))


def test_training_values_are_only_those_given() -> None:
    assert training().values() == {}
    assert training(channels="8,16,32", batch=3).values() == {"channels": (8, 16, 32), "batch": 3}
    with pytest.raises(UsageError, match="--epochs"):
        training(epochs=1, steps=1).values()


def test_places_exclude_each_other() -> None:
    PlacementOptions(workers=2, scheduler=None, in_process=False).check()
    with pytest.raises(UsageError, match="exclude each other"):
        PlacementOptions(workers=2, scheduler="tcp://host:1", in_process=False).check()

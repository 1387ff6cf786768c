"""Errors as one line with an exit code, `--debug`, NaN, and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from standins.command_line import call

from membrain_cloud.cli.app import Command, Program, debugging, exit_failed, print_json, say
from membrain_cloud.errors import InputError, MembrainCloudError, ModelError, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


def program_that_raises(error: BaseException) -> Program:
    program = Program("toy", help="A toy.")

    @program.command(cls=Command)
    @click.option("--size", type=float, multiple=True)
    def fail(size: tuple[float, ...]) -> None:
        say(f"debugging: {debugging()}")
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("size: too large", "give a smaller one"), 2, "error: size: too large -> give a smaller one"),
        (InputError("a.mrc: empty", "give another"), 2, "error: a.mrc: empty -> give another"),
        (ModelError("m.ckpt: broken", "fetch it again"), 2, "error: m.ckpt: broken -> fetch it again"),
        (StorageError("disk: full", "free space"), 1, "error: disk: full -> free space"),
        (MembrainCloudError("fault", ""), 1, "error: fault"),
        (KeyboardInterrupt(), 3, "error: interrupted -> run the same command again: finished tasks are kept"),
        (ZeroDivisionError("a\nb"), 1, "error: ZeroDivisionError: a b -> this is a bug: please report it, with the "
         "output of --debug"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, code: int, line: str) -> None:
    result = CliRunner().invoke(program_that_raises(error), ["fail"])
    assert result.exit_code == code
    assert result.stderr.splitlines() == ["debugging: False", line]
    assert result.stdout == ""


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_prints_the_traceback(words: list[str]) -> None:
    result = CliRunner().invoke(program_that_raises(UsageError("wrong", "right")), words)
    assert "debugging: True" in result.stderr
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("next_step", "expected"),
    [
        ("give voxel_spacing_angstrom, e.g. 10", "give --voxel-spacing, e.g. 10"),
        ("give another output, or set overwrite", "give another output, or add --overwrite"),
        ("set input.voxel_spacing_angstrom=10", "set input.voxel_spacing_angstrom=10"),
        ("give another size", "give another size"),
        ("lower memory_gib", "lower --memory-gib"),
    ],
)
def test_next_steps_name_options_of_the_command(next_step: str, expected: str) -> None:
    program = Program("toy", help="A toy.")

    @program.command(cls=Command)
    @click.option("--voxel-spacing", type=float)
    @click.option("--memory-gib", type=float)
    @click.option("--size", type=float)
    @click.option("--overwrite", is_flag=True)
    def fail(**_: object) -> None:
        raise UsageError("wrong", next_step)

    assert CliRunner().invoke(program, ["fail"]).stderr == f"error: wrong -> {expected}\n"


def test_keys_in_errors_are_hidden() -> None:
    secret = "https://host/a?X-Amz-Signature=0123456789abcdef"
    result = CliRunner().invoke(program_that_raises(ValueError(secret)), ["fail", "--debug"])
    assert "0123456789abcdef" not in result.stderr


def test_nan_is_refused() -> None:
    result = CliRunner().invoke(
        program_that_raises(UsageError("not reached", "")), ["fail", "--size", "1", "--size", "nan"]
    )
    assert result.exit_code == 2
    assert "nan is no number" in result.stderr


def test_exit_failed_ends_with_code_1() -> None:
    command = click.Command("fail", callback=exit_failed)
    assert CliRunner().invoke(command, []).exit_code == 1


@pytest.mark.parametrize(
    "value",
    [{"a": 1, "b": None}, [1, 2], "text", {"short": [1], "long": list(range(1500)), "nested": {"x": [{"y": 2.5}]}}],
)
def test_json_is_read_back(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_long_lists_are_written_an_entry_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"rows": [{"n": n} for n in range(1500)]})
    assert len(capsys.readouterr().out.splitlines()) > 1500


@pytest.mark.parametrize(
    ("arguments", "cause", "next_step"),
    [
        (["plan", "absent.json"], "absent.json", "project init"),
        (["run", "CONFIG", "-r", "TS_9"], "TS_9", "TS_1"),
        (["run", "CONFIG", "--stages", "meshes"], "meshes", "mesh"),
        (["run", "CONFIG", "--set", "pick.bandwith=3"], "pick.bandwith", "bandwidth_angstrom"),
        (["run", "CONFIG", "--in-process", "--workers", "2"], "exclude", "one of them"),
        (["run", "CONFIG", "--set", "segment.model=ghost"], "ghost", "give"),
        (["evaluate", "CONFIG", "--stages", "separate", "--set", "separate.segmentation=membrane:alice/3"],
         "no truth", "--truth"),
        (["segment", "absent.mrc"], "absent.mrc", "give"),
        (["export", "star", "CONFIG", "psii:nobody/1", "-r", "TS_1", "--output", "x.star"], "psii:nobody/1", "expert"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_code_2(vesicles: Project, arguments: list[str], cause: str, next_step: str) -> None:
    words = [vesicles.config if word == "CONFIG" else word for word in arguments]
    result = call(*words)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    before, _, after = line.partition(" -> ")
    assert cause in before
    assert next_step in after
    assert "Traceback" not in result.stderr
    assert "Traceback" in call("--debug", *words).stderr


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text in ("{", "[]", "{}", '{"a": 1}'):
        file.write_text(text)
        result = call("run", str(file))
        assert result.exit_code == 2
        assert "config.json" in result.stderr


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    @click.command(cls=Command)
    def load() -> None:
        raise ModuleNotFoundError("No module named 'h5py'", name="h5py")

    program = Program("p", help="A program.")
    program.add_command(load)
    result = CliRunner().invoke(program, ["load"])
    assert result.exit_code == 2
    assert "pip install 'membrain_cloud[exchange]'" in result.stderr
    assert "bug" not in result.stderr

"""The program as a whole: its commands, their help, and that the help is quick."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from standins.command_line import call, commands

from membrain_cloud.cli.commands.train.group import train
from membrain_cloud.cli.program import main

ALL = dict(commands(main))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = call(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"membrain-cloud {name}" in result.output
    assert "--debug" in result.output


def test_the_promised_commands_exist() -> None:
    promised = (
        "demo; project init; plan; run; status; failures; verify; clean; segment; train segmentation; train picking; "
        "thresholds; components; skeletonize; evaluate; tables list; tables describe; export star; export mrc; "
        "export motl; export meshes; export deposition; import segmentation; import picks; import meshes; "
        "import statistics; patches propose; patches extract; patches merge; patches list; train cross-validate; "
        "train rounds; models list; models info; models verify; models convert; models fetch; report; view; sbom; "
        "doctor; diff; measure picks; project manifest; portal select; tables check; tables compact; "
        "preprocess match-pixel-size; preprocess match-segmentation; preprocess extract-spectrum; "
        "preprocess match-spectrum; preprocess deconvolve"
    )
    assert set(promised.split("; ")) == set(ALL)


def test_the_list_of_commands_cuts_no_sentence() -> None:
    lines = call("--help").output.partition("Run:")[2].splitlines()
    assert len(lines) > 20
    assert [line for line in lines if "..." in line] == []


def test_every_command_is_in_one_section_of_the_help() -> None:
    listed = [name for names in main.sections.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    output = call("--help").output
    assert all(f"{title}:\n" in output for title in main.sections)


def test_all_trainings_are_in_their_group() -> None:
    assert main.commands["train"] is train
    assert set(train.commands) == {"segmentation", "picking", "cross-validate", "rounds"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, membrain_cloud.cli\n"
        "heavy = {'torch', 'dask', 'distributed', 'copick', 'zarr', 'pyarrow', 'scipy', 'numpy', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "membrain_cloud", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "membrain-cloud" in result.stdout


def test_every_argument_is_named_in_the_help() -> None:
    """An argument has no help text of its own: the command's text explains it where its name does not."""
    for name, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                usage = command.get_usage(click.Context(command, info_name=name))
                assert parameter.make_metavar(click.Context(command)).strip("[]. ") in usage

"""Pages about deployment name existing keys of values.yaml, commands of Dask, scripts and options."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from manifest_rules import commands_exist
from render import CHART, ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def unknown_keys(text: str) -> list[str]:
    """Return dotted names in backticks that begin with a key of values.yaml and are none."""
    unknown = []
    for name in re.findall(r"`([a-z]\w*(?:\.(?:\w+|\*))+)(?:[:=][^`]*)?`", text):
        here: Any = VALUES
        first, *rest = name.split(".")
        if first not in VALUES or (first == "plan" or name.endswith((".py", ".yaml", ".md", ".sh"))):
            continue
        for part in (first, *rest):
            if isinstance(here, dict) and part == "*":
                here = next(iter(here.values()))
            elif isinstance(here, dict) and (part in here or not here):
                here = here.get(part, {})
            else:
                unknown.append(name)
                break
    return unknown


def dask_commands(text: str) -> list[list[str]]:
    """Return the command lines of Dask in a page's shell blocks, backticks and --wrap options."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    commands = []
    for line in lines:
        for command in re.findall(r"(?:^|['\s])(dask (?:worker|scheduler)[^']*)", line):
            commands.append(shlex.split(command))
    return commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_values_in_pages_are_keys_of_the_chart(page: Path) -> None:
    assert unknown_keys(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_dask_commands_of_pages_parse(page: Path) -> None:
    commands = dask_commands(page.read_text(encoding="utf-8"))
    containers = [{"name": "page", "command": words} for words in commands if len(words) > 2]
    pod = {"kind": "Pod", "metadata": {"name": page.stem}, "spec": {"containers": containers}}
    assert list(commands_exist([pod])) == []
    assert commands or page.stem not in ("slurm", "single-machine")


def test_options_of_slurm_workers_exist() -> None:
    text = (ROOT / "docs" / "deploy" / "slurm.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"worker_extra_args=\[(.*?)\]", text)
    command = ["dask", "worker", "tcp://node:8786", *(word.strip(' "') for word in words.split(","))]
    pod = {"kind": "Pod", "metadata": {"name": "slurm"}, "spec": {"containers": [{"name": "w", "command": command}]}}
    assert "--lifetime" in command
    assert list(commands_exist([pod])) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_scripts_have_the_options_that_pages_show(page: Path) -> None:
    for script, options in re.findall(
        r"(?<!/)\b(deploy/[\w/-]+\.(?:sh|py))((?: --?[\w-]+(?: [\w./-]+)?)*)", page.read_text()
    ):
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", options):
            assert option in source, f"{script} {option}"


def test_wrong_names_are_found() -> None:
    assert unknown_keys("see `run.graceSecond` and `workers.*.max`, `run.graceSeconds`, `tls.mode: none`") == [
        "run.graceSecond"
    ]
    assert dask_commands("```sh\nsbatch --wrap 'dask worker \"$A\" --nprocs 1'\n```") == [
        ["dask", "worker", "$A", "--nprocs", "1"]
    ]

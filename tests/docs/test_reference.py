"""The documentation: reference pages are current, commands parse, links resolve."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from standins.pages import ROOT, blocks, shell_lines

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import load_settings, settings_from

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


def parse_command(line: str) -> None:
    """Parse a command line as click does, without a check of its files; raise for a wrong one."""
    words = shlex.split(line, comments=True)
    leaves = {tuple(names): command for names, command in GENERATOR.walk_commands()}
    depth = max((n for n in range(1, len(words) + 1) if tuple(words[:n]) in leaves), default=0)
    assert depth, f"no such command: {line}"
    command, arguments = leaves[tuple(words[:depth])], words[depth:]
    context = click.Context(command, info_name=words[depth - 1])
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    assert not rest, f"too many arguments in: {line}"
    present = {name for name, value in values.items() if value and "UNSET" not in repr(value)}
    missing = [parameter.name for parameter in command.params if parameter.required and parameter.name not in present]
    assert not missing, f"{line}: {missing} missing"
    overrides = [word for before, word in itertools.pairwise(arguments) if before == "--set"]
    load_settings(None, overrides)


@pytest.mark.parametrize("name", GENERATOR.PAGES)
def test_generated_page_is_current(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.is_file()
    assert page.read_text(encoding="utf-8") == GENERATOR.PAGES[name](), "run `python docs/generate.py`"


def test_every_command_has_help_and_an_example() -> None:
    bare = []
    for names, command in GENERATOR.walk_commands():
        text = command.get_help(click.Context(command, info_name=" ".join(names)))
        if not command.help or text.count("membrain-cloud") < 2:  # once in the usage line, once in the example
            bare.append(" ".join(names))
    assert bare == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_documentation_parse(page: Path) -> None:
    for line in shell_lines(page):
        parse_command(line)


def test_readme_shows_the_main_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("project init", "import", "plan", "run", "report", "failures", "segment", "tables list"):
        assert f"membrain-cloud {name} " in text
    assert "make demo" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_documentation_are_settings(page: Path) -> None:
    for block in blocks(page, "yaml"):
        settings_from(yaml.safe_load(block))
    for section, key in re.findall(r"`(input|segment|separate|mesh|pick|measure|output)\.(\w+)`", page.read_text()):
        fields = type(settings_from({}).__class__.model_fields[section].default).model_fields
        assert key in fields, f"{page.name} names {section}.{key}"


def test_tables_and_columns_in_the_readme_exist() -> None:
    from membrain_cloud.statistics.measure import TABLES

    examples = [block for block in blocks(ROOT / "README.md", "python", "sql") if "/tables/" in block]
    assert len(examples) == 2
    for block in examples:
        (table,) = re.findall(r"/tables/(\w+)", block)
        columns = {column.name for column in TABLES[table]}
        assert set(re.findall(r"\b[a-z]\w*_(?:nm2?|name|id)\b", block)) <= columns


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_named_modules_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (ROOT / path).is_file() or (ROOT / "membrain_cloud" / path).is_file(), path


@pytest.mark.parametrize(
    "line",
    [
        "membrain-cloud no-such-command",
        "membrain-cloud run config.json --no-such-option 3",
        "membrain-cloud run",
        "membrain-cloud run config.json --set pick.no_such_setting=3",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, click.UsageError, UsageError)):
        parse_command(line)

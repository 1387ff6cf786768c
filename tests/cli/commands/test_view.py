"""`membrain-cloud view`: its options; the page itself is tested with its server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from standins.command_line import call

from membrain_cloud.cli.commands.view import ServerOptions, view

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


def test_the_default_address_is_this_machine_only() -> None:
    options = {parameter.name: parameter for parameter in view.params if isinstance(parameter, click.Option)}
    assert options["bind"].default == "127.0.0.1"
    assert ServerOptions(no_browser=True, stop_after=None).bind == "127.0.0.1"


def test_a_page_is_served_for_the_given_time(vesicles: Project) -> None:
    pytest.importorskip("neuroglancer")
    start = time.monotonic()
    words = [vesicles.config, "-r", "TS_1", "--no-browser", "--stop-after", "0.3"]
    result = CliRunner().invoke(view, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("http://127.0.0.1:")
    assert "serving for 0.3 s" in result.stderr
    assert time.monotonic() - start >= 0.3


def test_an_unknown_run_is_refused(vesicles: Project) -> None:
    result = call("view", vesicles.config, "-r", "TS_9", "--no-browser", "--stop-after", "0")
    assert result.exit_code == 2
    assert "TS_9" in result.stderr

"""Options of `membrain-cloud patches`, and its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from standins.command_line import call

from membrain_cloud.cli.commands.patches import MergeOptions
from membrain_cloud.errors import UsageError
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


@pytest.mark.parametrize(("unmarked", "label"), [("background", MARKED_BACKGROUND), ("ignore", IGNORE)])
def test_merge_options_name_annotators(unmarked: str, label: int) -> None:
    options = MergeOptions(border=4, annotators=("alice/1", "bob"), folders=("corrections",), unmarked=unmarked)
    sources = options.sources()
    assert list(sources.annotators) == [("alice", "1"), ("bob", None)]
    assert (list(sources.folders), sources.unmarked, sources.border) == (["corrections"], label, 4)
    assert options.rule == "agree"


def test_an_annotator_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="annotator"):
        MergeOptions(border=None, annotators=("/1",), folders=()).sources()


@pytest.mark.parametrize("command", ["list", "extract", "merge"])
def test_a_set_that_does_not_exist_is_refused(vesicles: Project, command: str) -> None:
    result = call("patches", command, vesicles.config, "--name", "round-9")
    assert result.exit_code == 2
    assert "round-9" in result.stderr
    assert " -> " in result.stderr

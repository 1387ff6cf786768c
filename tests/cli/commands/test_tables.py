"""`membrain-cloud tables` on the tables of a small run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from standins.command_line import call, call_json

from membrain_cloud.cli.commands.tables import tables

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


def test_tables_of_a_run(vesicles: Project, from_alice: list[str], tmp_path: Path) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    listed = json.loads(CliRunner().invoke(tables, ["list", vesicles.config, "--json"]).stdout)
    rows = {entry["table"]: entry["rows"] for entry in listed}
    assert (rows["membranes"], rows["particles"]) == (2, 12)
    described = call_json("tables", "describe", vesicles.config, "particles")["particles"]
    assert all(column["description"] for column in described)
    assert call_json("tables", "check", vesicles.config) == []
    assert "nothing is wrong" in call("tables", "check", vesicles.config).stdout
    copied = call_json("tables", "compact", vesicles.config, str(tmp_path / "copy"))
    assert {name: counts["rows"] for name, counts in copied.items()} == rows
    assert {e["table"]: e["rows"] for e in call_json("tables", "list", str(tmp_path / "copy"))} == rows


def test_an_unknown_table_is_refused(vesicles: Project, from_alice: list[str]) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    result = call("tables", "describe", vesicles.config, "cells")
    assert result.exit_code == 2
    assert "no table 'cells'" in result.stderr
    assert "membranes" in result.stderr


@pytest.mark.parametrize("command", ["list", "describe", "check", "compact"])
def test_a_place_without_tables_is_refused(tmp_path: Path, command: str) -> None:
    result = call("tables", command, str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert f"no tables below {tmp_path / 'nowhere'}" in result.stderr

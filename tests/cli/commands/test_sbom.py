"""`membrain-cloud sbom`: the bill of materials as JSON, a table of licences, a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from membrain_cloud.cli.commands.sbom import sbom

if TYPE_CHECKING:
    from pathlib import Path


def test_the_bill_names_installed_packages(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    result = CliRunner().invoke(sbom, ["--output", str(file)])
    assert result.exit_code == 0
    names = {component["name"] for component in json.loads(file.read_text())["components"]}
    assert {"click", "numpy"} <= names
    assert result.stdout == ""
    assert "packages" in result.stderr


def test_licences_are_a_table() -> None:
    result = CliRunner().invoke(sbom, ["--licences"])
    assert "| click |" in result.stdout

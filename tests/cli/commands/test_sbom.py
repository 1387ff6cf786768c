"""`membrain-cloud sbom`: the bill of materials of an image and of an environment, a table of licences, a file."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.cli.commands.sbom import sbom

if TYPE_CHECKING:
    from pathlib import Path

BILL: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "metadata": {"component": {"name": "our-tool", "version": "2", "licenses": [{"license": {"id": "BSD-3-Clause"}}]}},
    "components": [
        {"name": "mute", "version": "1"},
        {"name": "odd", "version": "3", "licenses": [{"license": {"name": "Free |\nOpen"}}]},
        {"name": "both", "version": "4", "licenses": [{"license": {"id": "MIT"}}, {"license": {"id": "0BSD"}}]},
        {"name": "spdx", "version": "5", "licenses": [{"expression": "MIT OR Apache-2.0"}]},
    ],
}


def image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder look like the environment of an image, with its bill."""
    stored = folder / "share" / "membrain-cloud" / "sbom.cdx.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps(BILL))
    monkeypatch.setattr(sys, "prefix", str(folder))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_bill_lists_what_is_installed_here(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py")
    file = tmp_path / "sbom.json"
    result = CliRunner().invoke(main, ["sbom", "--output", str(file)])
    assert (result.exit_code, result.stdout) == (0, "")
    bill = json.loads(file.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {normalised(part["name"]): part for part in bill["components"]}
    assert listed.keys() == {normalised(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert listed["numpy"]["version"] == importlib.metadata.version("numpy")
    assert listed["numpy"]["purl"] == f"pkg:pypi/numpy@{importlib.metadata.version('numpy')}"
    assert f"{len(bill['components'])} packages" in result.stderr


def test_an_image_gives_the_bill_of_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path, monkeypatch)
    assert json.loads(CliRunner().invoke(sbom, []).stdout) == BILL


def test_licences_are_a_table_with_the_unknown_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path, monkeypatch)
    assert CliRunner().invoke(sbom, ["--licences"]).stdout.splitlines()[2:7] == [
        "| mute | 1 | unknown |",
        "| both | 4 | MIT AND 0BSD |",
        "| odd | 3 | Free / Open |",
        "| our-tool | 2 | BSD-3-Clause |",
        "| spdx | 5 | MIT OR Apache-2.0 |",
    ]


def test_without_cyclonedx_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membrain_cloud.cli.commands.sbom.find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["sbom"])
    assert result.exit_code == 2
    assert "pip install cyclonedx-bom" in result.stderr


def test_a_file_that_cannot_be_written_is_bad_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "image", monkeypatch)
    result = CliRunner().invoke(main, ["sbom", "--output", str(tmp_path / "no" / "such" / "folder")])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr

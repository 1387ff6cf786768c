"""The bill of materials: what is installed, once each, in CycloneDX; and the licences."""

from __future__ import annotations

import importlib.metadata
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.sbom import bill_of_materials, installed_packages, licence_list, normalised

if TYPE_CHECKING:
    from pathlib import Path


def package(folder: Path, name: str, *lines: str) -> None:
    place = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, ""]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package(
        tmp_path, "Our_Tool", "License-Expression: BSD-3-Clause", "Requires-Dist: some.lib>=1", "Requires-Dist: absent"
    )
    package(tmp_path, "some-lib", "License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License")
    package(tmp_path, "mute", "License: " + "a whole licence " * 20)
    package(
        tmp_path, "odd", "License: Free | Open", 'Requires-Dist: mute; extra == "test"', "Home-page: https://odd.org"
    )
    return tmp_path


def test_each_package_has_a_licence_where_anybody_says_it(folder: Path) -> None:
    found = {one.name: one for one in installed_packages([str(folder)])}
    licences = {name: one.licence for name, one in found.items()}
    assert licences == {"our-tool": "BSD-3-Clause", "some-lib": "MIT License", "mute": None, "odd": "Free | Open"}
    assert found["odd"].requires == ()
    assert licence_list(list(found.values())).splitlines()[2:4] == [
        "| mute | 1.0 | not said |",
        "| odd | 1.0 | Free / Open |",
    ]


def test_the_bill_names_and_links_them(folder: Path) -> None:
    bill = bill_of_materials(installed_packages([str(folder)]), root="our-tool")
    assert bill["metadata"]["component"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    components = {part["name"]: part for part in bill["components"]}
    assert components.keys() == {"some-lib", "mute", "odd"}
    assert components["some-lib"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert "licenses" not in components["mute"]
    links = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert links["pkg:pypi/our-tool@1.0"] == ["pkg:pypi/some-lib@1.0"]
    assert set(links) == {part["bom-ref"] for part in (*bill["components"], bill["metadata"]["component"])}


def cyclone_errors(bill: dict[str, Any]) -> list[str]:
    """List what CycloneDX 1.6 requires and the bill lacks."""
    wrong = [] if (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1) else ["head"]
    if not re.fullmatch(r"urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", bill["serialNumber"]):
        wrong.append("serialNumber")
    for part in bill["components"]:
        if not re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[^/@]+", part["purl"]) or part["type"] != "library":
            wrong.append(part["name"])
        for licence in part.get("licenses", ()):
            if len(licence) != 1 or licence.keys() - {"expression", "license"}:
                wrong.append(f"licence of {part['name']}")
    return wrong


def test_the_command_lists_what_is_installed_here(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    assert CliRunner().invoke(main, ["sbom", "--output", str(file)]).exit_code == 0
    bill = json.loads(file.read_text())
    assert cyclone_errors(bill) == []
    listed = {part["name"]: part["version"] for part in bill["components"]}
    installed = {normalised(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert listed.keys() | {"membrain-cloud"} == installed
    assert listed["torch"] == importlib.metadata.version("torch")
    table = CliRunner().invoke(main, ["sbom", "--licences"])
    assert "| torch |" in table.stdout


def test_a_file_that_cannot_be_written_is_bad_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["sbom", "--output", str(tmp_path / "no" / "such" / "folder")])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr

"""The command `sbom`: the installed packages and their licences."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from membrain_cloud.cli.app import Command, say
from membrain_cloud.errors import UsageError

# Written by deploy/image/finish.py, since images have no tool that makes one.
_OF_THE_IMAGE = Path("share", "membrain-cloud", "sbom.cdx.json")


@click.command(cls=Command)
@click.option("--licences", is_flag=True, help="Write a table of packages and licences (Markdown) instead of the bill.")
@click.option("--output", metavar="FILE", help="File to write (default: standard output).")
def sbom(licences: bool, output: str | None) -> None:
    """List the installed Python packages and their versions.

    The list is a bill of materials (CycloneDX 1.6, JSON). In a container these are the image's packages; packages of
    the operating system are not included. Elsewhere it is made by cyclonedx-bom, which must be installed:
    `pip install cyclonedx-bom`.

    \b
    Examples:
      membrain-cloud sbom --output sbom.cdx.json
      membrain-cloud sbom --licences
    """
    bill = _bill()
    text = _licence_table(bill) if licences else json.dumps(bill, indent=2)
    if output is None:
        click.echo(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error.strerror})", "give a path that can") from None
    say(f"{output}: {len(bill['components'])} packages")


def _bill() -> dict[str, Any]:
    """Return the bill of the image if this is one, else that of the environment that runs."""
    stored = Path(sys.prefix) / _OF_THE_IMAGE
    if stored.is_file():
        return dict(json.loads(stored.read_text(encoding="utf-8")))
    if find_spec("cyclonedx_py") is None:
        raise UsageError("cyclonedx-bom, which lists the packages, is not installed", "`pip install cyclonedx-bom`")
    # Another process: cyclonedx-bom has no Python API. Its validation takes 20 times as long as the list.
    program = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", "--of", "JSON", sys.executable]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = done.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"cyclonedx-bom cannot list the packages: {last_line}", f"see `{' '.join(program)}`")
    return dict(json.loads(done.stdout))


def _licence_table(bill: dict[str, Any]) -> str:
    """Return a Markdown table of packages and licences, those without a licence first."""
    rows = sorted((bool(licence := _licence(part)), part["name"], part["version"], licence) for part in _packages(bill))
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [
        f"| {name} | {version} | {(licence or 'unknown').replace('|', '/')} |" for _, name, version, licence in rows
    ]
    return "\n".join(lines) + "\n"


def _packages(bill: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the packages of a bill, the one that it is about included."""
    subject = bill["metadata"].get("component")
    return [*([subject] if subject else []), *bill["components"]]


def _licence(component: dict[str, Any]) -> str:
    """Return a package's SPDX expression, or the names of its licences; empty if it states none."""
    licences = [entry.get("license", {}) for entry in component.get("licenses", ())]
    expressions = [entry["expression"] for entry in component.get("licenses", ()) if "expression" in entry]
    names = [licence.get("id") or licence.get("name", "") for licence in licences if licence]
    return " ".join(" AND ".join(expressions or names).split())

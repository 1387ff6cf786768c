"""The command `sbom`: the installed packages and their licences."""

from __future__ import annotations

import json
from pathlib import Path

import click

from membrain_cloud.cli.app import Command, say
from membrain_cloud.errors import UsageError


@click.command(cls=Command)
@click.option("--licences", is_flag=True, help="Write a table of packages and licences (Markdown) instead of the bill.")
@click.option("--output", metavar="FILE", help="File to write (default: standard output).")
def sbom(licences: bool, output: str | None) -> None:
    """List the installed Python packages and their versions.

    The list is a bill of materials (CycloneDX 1.6, JSON). In a container these are the image's packages; packages of
    the operating system are not included.

    \b
    Examples:
      membrain-cloud sbom --output sbom.cdx.json
      membrain-cloud sbom --licences
    """
    from membrain_cloud.sbom import bill_of_materials, installed_packages, licence_list

    packages = installed_packages()
    try:
        text = licence_list(packages) if licences else json.dumps(bill_of_materials(packages, root="membrain_cloud"))
    except KeyError:
        cause = "membrain_cloud is not installed as a package, only found as source files"
        raise UsageError(cause, "install it: `pip install -c constraints.txt .`") from None
    if output is None:
        click.echo(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error.strerror})", "give a path that can") from None
    say(f"{output}: {len(packages)} packages")

"""Verbs about the installation itself: sbom."""

from __future__ import annotations

import json

import click

from membrain_cloud.cli.app import Program, Verb, say
from membrain_cloud.errors import UsageError


def register(main: Program) -> None:
    main.add_command(sbom)


@click.command(cls=Verb)
@click.option("--licences", is_flag=True, help="A table of packages and licences (Markdown) in place of the bill.")
@click.option("--output", metavar="FILE", help="Write there, not to standard output.")
def sbom(licences: bool, output: str | None) -> None:
    """List the Python packages that are installed beside this one: a bill of materials (CycloneDX 1.6, JSON).

    In a container it lists the image's; packages of the operating system are not in it.

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
        what = "membrain_cloud is not installed as a package, only found as source files"
        raise UsageError(what, "install it: `pip install -c constraints.txt .`") from None
    if output is None:
        click.echo(text)
        return
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error.strerror})", "give a path that can") from None
    say(f"{output}: {len(packages)} packages")

"""What is installed beside this package, from the packages' own metadata: a bill of materials and a list of licences.

The bill is CycloneDX 1.6 (ECMA-424), JSON; components are named by package URLs of type `pypi`. It covers Python
packages: those of the operating system are listed by tools of the image's base.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageMetadata, distributions
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Metadata of old packages give their licence as a whole text, or as one of these classifiers.
_LONGEST_NAME = 60
_CLASSIFIER = re.compile(r"^License :: (?:OSI Approved :: )?(?P<name>.+)$")
_NOTHING = {"", "unknown", "none"}


@dataclass(frozen=True)
class Package:
    """An installed package. `licence` is the SPDX expression where it gives one, else its own words; None: unknown."""

    name: str
    version: str
    licence: str | None
    is_spdx: bool
    homepage: str | None
    requires: tuple[str, ...]

    @property
    def url(self) -> str:
        """Package URL (purl)."""
        return f"pkg:pypi/{quote(self.name)}@{quote(self.version)}"


def installed_packages(search: Sequence[str] | None = None) -> list[Package]:
    """Every package on this interpreter's path (or in the folders `search`), by name, each once: the first found."""
    found: dict[str, Package] = {}
    for distribution in distributions() if search is None else distributions(path=list(search)):
        if distribution.metadata["Name"]:
            package = _package(distribution)
            found.setdefault(package.name, package)
    return sorted(found.values(), key=lambda package: package.name)


def _package(distribution: Distribution) -> Package:
    metadata = distribution.metadata
    expression = _field(metadata, "License-Expression")
    return Package(
        name=normalised(metadata["Name"]),
        version=distribution.version,
        licence=expression or _own_words(_field(metadata, "License"), metadata.get_all("Classifier") or []),
        is_spdx=bool(expression),
        homepage=_homepage(_field(metadata, "Home-page"), metadata.get_all("Project-URL") or []),
        requires=tuple(sorted({normalised(name) for name in map(_required_name, distribution.requires or []) if name})),
    )


def _field(metadata: PackageMetadata, name: str) -> str | None:
    return metadata[name] if name in metadata else None  # noqa: SIM401 -- its type has no `get`


def normalised(name: str) -> str:
    """Return a package's name as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _required_name(requirement: str) -> str | None:
    """Name in a requirement; None for one of an extra."""
    if "extra ==" in requirement.replace("extra==", "extra =="):
        return None
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return match[0] if match else None


def _own_words(field: str | None, classifiers: Iterable[str]) -> str | None:
    named = [
        match["name"] for match in map(_CLASSIFIER.match, classifiers) if match and match["name"] != "OSI Approved"
    ]
    words = " ".join((field or "").split())
    if words.lower() in _NOTHING or len(words) > _LONGEST_NAME:
        return " AND ".join(named) or None
    return words


def _homepage(homepage: str | None, urls: Iterable[str]) -> str | None:
    pages = [url.partition(",")[2].strip() for url in urls]
    return next((page for page in (homepage, *pages) if page and page.startswith(("http://", "https://"))), None)


def bill_of_materials(packages: Sequence[Package], *, root: str, made: datetime | None = None) -> dict[str, Any]:
    """CycloneDX document of `packages`; `root` names the one that the bill is about (KeyError where it is missing).

    made : when; now by default.
    """
    by_name = {package.name: package for package in packages}
    subject = by_name[normalised(root)]
    when = (made or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": when, "component": _component(subject, "application")},
        "components": [_component(package, "library") for package in packages if package is not subject],
        "dependencies": [
            {"ref": package.url, "dependsOn": [by_name[name].url for name in package.requires if name in by_name]}
            for package in packages
        ],
    }


def _component(package: Package, kind: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": kind,
        "bom-ref": package.url,
        "name": package.name,
        "version": package.version,
        "purl": package.url,
    }
    if package.licence and package.is_spdx:
        component["licenses"] = [{"expression": package.licence}]
    elif package.licence:
        component["licenses"] = [{"license": {"name": package.licence}}]
    if package.homepage:
        component["externalReferences"] = [{"type": "website", "url": package.homepage}]
    return component


def licence_list(packages: Sequence[Package]) -> str:
    """Return a Markdown table of packages and licences, those without a licence first."""
    rows = sorted(packages, key=lambda package: (package.licence is not None, package.name))
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {p.name} | {p.version} | {(p.licence or 'not said').replace('|', '/')} |" for p in rows]
    return "\n".join(lines) + "\n"

"""Check Python, the packages that are required, and the extras."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from membrain_cloud.extras import EXTRAS, missing_modules, purpose
from membrain_cloud.pipeline.diagnosis.check import Check
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OLDEST_PYTHON = (3, 11)


def check_installation() -> Iterator[Check]:
    """Yield checks of Python, of the required packages and of each extra. Nothing heavy is imported."""
    yield _check_python()
    try:
        requirements = importlib.metadata.requires("membrain_cloud") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "packages",
            "warning",
            "membrain_cloud is found as source files, not installed: its requirements are not known",
            "install it: pip install -c constraints.txt .",
        )
    else:
        yield check_packages(requirements)
    for extra in EXTRAS:
        yield _check_extra(extra)


def _check_python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, membrain_cloud {__version__}"
    if sys.version_info < _OLDEST_PYTHON:
        return Check("Python", "failed", detail, "use Python 3.11 or newer")
    return Check("Python", "ok", detail)


def check_packages(requirements: Sequence[str]) -> Check:
    """Return the check of installed packages against requirements.

    Parameters
    ----------
    requirements : sequence of str
        Requirements as in the metadata of a package, e.g. `numpy>=1.26`; those of extras are left out.

    Returns
    -------
    Check
        Failed where a package is missing or has another version than required.
    """
    faults, count = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} {version}, required is {requirement.specifier}")
    if faults:
        return Check("packages", "failed", "; ".join(faults), "install again: pip install -c constraints.txt .")
    return Check("packages", "ok", f"{count} required packages are installed, in versions that fit")


def _check_extra(extra: str) -> Check:
    missing = missing_modules(extra)
    if missing:
        detail = f"not installed: {', '.join(missing)} (for {purpose(extra)})"
        return Check(f"extra {extra}", "absent", detail, f"where needed: pip install 'membrain_cloud[{extra}]'")
    return Check(f"extra {extra}", "ok", f"for {purpose(extra)}")

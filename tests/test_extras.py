"""The error for a package that is not installed names the extra that brings it."""

import re
import tomllib
from pathlib import Path

import pytest

from membrain_cloud.extras import EXTRAS, missing_modules, missing_package, purpose

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
FOR_DEVELOPERS = {"test", "deploy", "docs"}


def test_every_extra_for_users_is_known_with_its_modules() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    declared = {
        extra: tuple(re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements)
        for extra, requirements in extras.items()
        if extra not in FOR_DEVELOPERS
    }
    assert declared == EXTRAS
    assert all(purpose(extra) for extra in EXTRAS)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "pip install 'membrain_cloud[exchange]'"),
        (
            ModuleNotFoundError("No module named 'kr8s'", name="kr8s.asyncio"),
            "pip install 'membrain_cloud[kubernetes]'",
        ),
        (ImportError("Install s3fs to access S3"), "pip install 'membrain_cloud[s3]'"),
        (ImportError("Please install gcsfs to access Google Storage"), "pip install 'membrain_cloud[gcs]'"),
        (ImportError("Install adlfs to access Azure Datalake Gen2"), "pip install 'membrain_cloud[azure]'"),
        (ImportError("Please install somefs to access Some Storage"), "pip install somefs"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy"), "pip install membrain_cloud"),
    ],
)
def test_a_missing_package_is_named_with_its_command(error: ImportError, cure: str) -> None:
    missing = missing_package(error)
    assert missing is not None
    assert missing.next_step.endswith(cure)


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'membrain_cloud.nothing'", name="membrain_cloud.nothing"),
        ImportError("cannot import name 'nothing' from 'numpy'", name="numpy"),
    ],
)
def test_a_fault_of_our_own_imports_is_not_a_missing_package(error: ImportError) -> None:
    assert missing_package(error) is None


def test_missing_modules_are_found_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "view", ("neuroglancer_of_another_planet", "json"))
    assert missing_modules("view") == ["neuroglancer_of_another_planet"]

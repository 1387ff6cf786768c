"""The floors of the house hold: imports go down only, and each outside library stays in its room.

The rules are read from the source (ast), imports inside functions and under TYPE_CHECKING included, so that a
forbidden import is found even where no test runs it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import membrain_cloud

PACKAGE = Path(membrain_cloud.__file__).parent

FLOORS: dict[str, int] = {
    "errors": 0,
    "geometry": 0,
    "lattice": 0,
    "bill_of_materials": 0,
    "redaction": 0,
    "membranes": 1,
    "networks": 1,
    "store": 2,
    "training": 2,
    "report": 2,
    "tables": 3,
    "pipeline": 3,
    "cli": 4,
    "__main__": 5,
}
# The rooms of these floors do not see each other; those of the ground floor may.
BLIND_FLOORS = {1, 2}

# Outside library -> the only rooms (or files) that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dask", "distributed", "bokeh"), ("pipeline.run",)),
    "prometheus_client": ("pipeline.metrics",),
    "kr8s": ("pipeline.scaling",),
    **dict.fromkeys(("copick", "zarr", "pyarrow", "fsspec", "ome_zarr", "numcodecs"), ("store",)),
    **dict.fromkeys(
        ("mrcfile", "starfile", "tifffile", "h5py", "emfile", "aiohttp", "s3fs", "cryoet_data_portal"), ("store",)
    ),
    **dict.fromkeys(("torch", "monai", "safetensors"), ("networks", "training", "pipeline")),
    "triton": ("networks",),
    **dict.fromkeys(("matplotlib", "jinja2", "neuroglancer"), ("report",)),
}
# What no plain `membrain-cloud --help` may wait for.
HEAVY = (
    "torch",
    "monai",
    "dask",
    "distributed",
    "copick",
    "zarr",
    "pyarrow",
    "scipy",
    "numba",
    "matplotlib",
    "pyvista",
)


@dataclass(frozen=True)
class Import:
    """One import: who, whom, on which line, and whether it runs when the module is imported."""

    module: str
    target: str
    line: int
    at_import_time: bool


def imports_in(path: Path, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every import of one file, with relative ones resolved and `importlib.import_module("x")` counted."""
    yield from _walk(ast.parse(path.read_text(encoding="utf-8")), module, is_package, at_import_time=True)


def _walk(node: ast.AST, module: str, is_package: bool, at_import_time: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, module, is_package):
            yield Import(module, target, child.lineno, at_import_time)  # type: ignore[attr-defined]
        runs = at_import_time and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        runs = runs and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        yield from _walk(child, module, is_package, runs)


def _targets(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            keep = len(parts) - node.level + is_package
            base = ".".join([*parts[:keep], *([base] if base else [])])
        # `from membrain_cloud import store` imports a room by its alias, so aliases count as well.
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "importlib.import_module",
        "import_module",
        "__import__",
    ):
        return [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return []


def all_imports(package: Path) -> list[Import]:
    found: list[Import] = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found += imports_in(path, ".".join(parts[:-1] if is_package else parts), is_package=is_package)
    return found


def violations(package: Path) -> list[str]:
    """One sentence for each import that breaks a rule of the house."""
    return [
        f"{found.module}:{found.line} imports {found.target}: {why}"
        for found in all_imports(package)
        for why in _why_forbidden(found, package.name)
    ]


def _why_forbidden(found: Import, package: str) -> Iterator[str]:
    here = found.module.split(".")[1:]
    target = found.target.split(".")
    if target[0] == package:
        there = target[1] if len(target) > 1 else ""
        if there in FLOORS:
            yield from _why_wrong_way(here[0] if here else "", there)
        return
    allowed = ONLY_IN.get(target[0])
    if allowed is not None and not any(".".join(here) == a or ".".join(here).startswith(f"{a}.") for a in allowed):
        yield f"only {' and '.join(allowed)} may use {target[0]}"


def _why_wrong_way(here: str, there: str) -> Iterator[str]:
    if here == there:
        return
    if here not in FLOORS:
        yield f"'{here or 'the package itself'}' stands on no floor and may import no room"
    elif FLOORS[there] > FLOORS[here]:
        yield f"imports go down only, and {there} is above {here}"
    elif FLOORS[there] == FLOORS[here] and FLOORS[here] in BLIND_FLOORS:
        yield f"{here} and {there} are on one floor and blind to each other"


def test_floors_hold() -> None:
    assert violations(PACKAGE) == []


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__"} - set(FLOORS) == set(), "give it a floor here and in ARCHITECTURE.md"


def test_cli_needs_nothing_heavy_at_the_top() -> None:
    """Also not by way of the modules it imports at the top."""
    at_top: dict[str, set[str]] = {}
    for found in all_imports(PACKAGE):
        if found.at_import_time:
            at_top.setdefault(found.module, set()).add(found.target)
    reached, todo = set(), [f"{PACKAGE.name}.cli"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        if name.startswith(f"{PACKAGE.name}."):
            # `a.b.name` is either a module or a name in module `a.b`; importing a.b.c also runs a and a.b.
            todo += [*at_top.get(name, ()), name.rpartition(".")[0]]
    heavy = {name for name in reached if name.split(".")[0] in HEAVY}
    assert heavy == set()


def test_importing_the_cli_loads_nothing_heavy() -> None:
    code = f"import sys, membrain_cloud.cli; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


FAKE = {
    "geometry.py": "import numpy\n",
    "errors.py": "",
    "membranes/__init__.py": "",
    "store/project.py": "import copick\n",
    "pipeline/run.py": "import dask\nfrom ..store import project\n",
    "cli.py": "def main():\n    from .pipeline import run\n",
}


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("membranes/a.py", "import zarr", "only store may use zarr"),
        ("membranes/a.py", "def f():\n    from zarr.storage import FSStore", "only store may use zarr"),
        ("membranes/a.py", "from ..networks.unet import UNet", "blind to each other"),
        (
            "membranes/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fake import store",
            "is above",
        ),
        ("networks/a.py", "import fake.membranes.meshing", "blind to each other"),
        ("store/a.py", "from fake.report import page", "blind to each other"),
        ("training/a.py", "import importlib\nx = importlib.import_module('fake.store.project')", "blind to each other"),
        ("geometry.py", "from . import membranes", "membranes is above geometry"),
        ("store/a.py", "from fake.pipeline.settings import Settings", "pipeline is above store"),
        ("pipeline/stages.py", "from distributed import Client", "only pipeline.run may use distributed"),
        ("pipeline/runner.py", "import dask", "only pipeline.run may use dask"),
        ("cli.py", "def main():\n    import copick", "only store may use copick"),
        ("__init__.py", "from .cli import main", "stands on no floor"),
    ],
)
def test_the_test_finds_a_broken_rule(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    package = tmp_path / "fake"
    for name, text in FAKE.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert violations(package) == []
    (package / path).parent.mkdir(parents=True, exist_ok=True)
    (package / path).write_text(source)
    found = violations(package)
    assert len(found) == 1
    assert complaint in found[0]

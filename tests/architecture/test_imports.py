"""Imports go down only, and each outside library stays in its package.

The directions are contracts of import-linter in pyproject.toml. The rules for outside libraries are read from the
source (ast), imports inside functions and under TYPE_CHECKING included, so that a forbidden import is found even where
no test runs it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import membrain_cloud

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(membrain_cloud.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"

# Outside library -> the only packages that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dask", "distributed", "bokeh", "tornado", "kr8s"), ("pipeline.runners",)),
    "prometheus_client": ("pipeline.monitoring",),
    **dict.fromkeys(("copick", "zarr", "pyarrow", "fsspec", "ome_zarr", "numcodecs"), ("store",)),
    **dict.fromkeys(
        (
            "mrcfile",
            "nibabel",
            "nrrd",
            "starfile",
            "tifffile",
            "h5py",
            "emfile",
            "aiohttp",
            "s3fs",
            "cryoet_data_portal",
        ),
        ("store",),
    ),
    **dict.fromkeys(("torch", "monai", "safetensors"), ("networks", "training", "pipeline")),
    "triton": ("networks",),
    "xarray": ("store", "tables", "api"),
    **dict.fromkeys(("matplotlib", "jinja2", "neuroglancer"), ("report",)),
}
# Libraries that `import membrain_cloud` and `membrain-cloud --help` may load.
AT_START = {"click"}
# The only module that imports modules of the package by name: import-linter does not see such imports.
IMPORTS_BY_NAME = {"membrain_cloud"}


@dataclass(frozen=True)
class Import:
    """One import: the importing module, the target, the line, and whether it runs when the module is imported."""

    module: str
    target: str
    line: int
    at_import_time: bool


_BY_NAME = ("importlib.import_module", "import_module", "__import__", "pkgutil.resolve_name", "runpy.run_module")


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
        # `from membrain_cloud import store` imports a package by its alias, so aliases count as well.
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _BY_NAME:
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
    """Return one sentence for each import of an outside library in a package that may not use it."""
    return [
        f"{found.module}:{found.line} imports {found.target}: {why}"
        for found in all_imports(package)
        for why in _why_forbidden(found, package.name)
    ]


def _why_forbidden(found: Import, package: str) -> Iterator[str]:
    here = ".".join(found.module.split(".")[1:])
    library = found.target.split(".")[0]
    allowed = ONLY_IN.get(library)
    if library != package and allowed is not None and not any(f"{here}.".startswith(f"{a}.") for a in allowed):
        yield f"only {' and '.join(allowed)} may use {library}"


def imports_by_name(package: Path) -> list[str]:
    """Return the places that can import a module whose name is no part of an import statement."""
    words = {name.rpartition(".")[2] for name in _BY_NAME}
    places = []
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # Attributes, names and `from importlib import import_module as load`, so that no alias hides one.
            used = {getattr(node, "attr", None), getattr(node, "id", None)}
            if isinstance(node, ast.ImportFrom):
                used |= {alias.name for alias in node.names}
            if used & words and module not in IMPORTS_BY_NAME:
                places.append(f"{module}:{node.lineno}")  # type: ignore[attr-defined]
    return places


def contracts() -> list[dict[str, list[str]]]:
    return tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]


def test_outside_libraries_stay_in_their_packages() -> None:
    assert violations(PACKAGE) == []


def test_imports_go_down_only_and_have_no_cycle() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=PYPROJECT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_package_has_a_layer() -> None:
    layered = {name.strip() for layer in contracts()[0]["layers"] for name in layer.split("|")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert modules - {"__init__", "__main__"} == {name.removeprefix(f"{PACKAGE.name}.") for name in layered}


def test_modules_are_imported_by_statements() -> None:
    """A module that is imported by its name as text escapes import-linter's contracts."""
    assert imports_by_name(PACKAGE) == []


@pytest.mark.parametrize("start", ["", ".cli", ".cli.copick_plugin"])
def test_a_start_needs_no_library_but_click(start: str) -> None:
    """Also not by way of the modules that are imported at the top."""
    at_top: dict[str, set[str]] = {}
    for found in all_imports(PACKAGE):
        if found.at_import_time:
            at_top.setdefault(found.module, set()).add(found.target)
    reached, todo = set(), [f"{PACKAGE.name}{start}"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        if name.startswith(f"{PACKAGE.name}."):
            # `a.b.name` is either a module or a name in module `a.b`; importing a.b.c also runs a and a.b.
            todo += [*at_top.get(name, ()), name.rpartition(".")[0]]
    assert libraries(reached) <= AT_START


@pytest.mark.parametrize(
    "code",
    [
        "import membrain_cloud",
        "import membrain_cloud.cli.copick_plugin",
        "from membrain_cloud.cli import main; sys.argv[1:] = ['--help']; main()",
    ],
)
def test_a_start_loads_no_library_but_click(code: str) -> None:
    report = "print(*{*sys.modules} - before, file=sys.stderr)"
    code = f"import atexit, sys; before = {{*sys.modules}}; atexit.register(lambda: {report}); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert PACKAGE.name in done.stderr
    assert libraries(done.stderr.split()) <= AT_START


def libraries(modules: Iterable[str]) -> set[str]:
    """Return the outside libraries among modules."""
    return {name.split(".")[0] for name in modules} - {PACKAGE.name, *sys.stdlib_module_names}


FAKE = {
    "geometry.py": "import numpy\n",
    "store/project.py": "import copick\n",
    "pipeline/runners/dask.py": "import dask\nfrom ...store import project\n",
}


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("mesh/a.py", "import zarr", "only store may use zarr"),
        ("mesh/a.py", "def f():\n    from zarr.storage import FSStore", "only store may use zarr"),
        (
            "mesh/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import zarr",
            "only store may use zarr",
        ),
        ("mesh/a.py", "import importlib\nx = importlib.import_module('torch')", "may use torch"),
        ("pipeline/stages/a.py", "from distributed import Client", "only pipeline.runners may use distributed"),
        ("pipeline/runners_too.py", "import dask", "only pipeline.runners may use dask"),
        ("cli.py", "def main():\n    import copick", "only store may use copick"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, source: str, complaint: str) -> None:
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


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\n\ndef f():\n    importlib.import_module(f'{__package__}.store')",
        "from importlib import import_module as load\nload('fake.store.project')",
        "__import__('fake.store')",
    ],
)
def test_an_import_by_name_is_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "fake" / "mesh").mkdir(parents=True)
    (tmp_path / "fake" / "mesh" / "a.py").write_text(source)
    assert imports_by_name(tmp_path / "fake")

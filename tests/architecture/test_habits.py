"""Rules on the shape of the code: sizes of files and folders, names of tests, docstrings, a test for every module."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE, TESTS = ROOT / "membrain_cloud", ROOT / "tests"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
LONGEST_FILE, LARGEST_FOLDER, LONGEST_TEST_NAME = 450, 16, 70
# Options of dask's own programs, which next steps quote.
FOREIGN_OPTIONS = {"--nthreads", "--memory-limit", "--resources", "--preload-nanny", "--query-gpu", "--format"}
_ARRAY = re.compile(r"\b(NDArray|Float32|Float64|Floats|Ints|Tensor)\b")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, or names in the code that it runs in another process."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"membrain_cloud(?:\.\w+)+", node.value)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the public functions and methods of a module that have a parameter beside self."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        public = not isinstance(node, ast.ClassDef) or not node.name.startswith("_")
        for item in body if public else []:
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and parameters(item):
                yield item


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument for argument in arguments if argument.arg not in ("self", "cls") and argument.arg[0] != "_"]


def test_no_file_is_longer_than_450_lines() -> None:
    lengths = {dotted(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_folder_holds_more_than_16_modules() -> None:
    folders = [folder for folder in [PACKAGE, *PACKAGE.rglob("*")] if folder.is_dir()]
    sizes = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > LARGEST_FOLDER} == {}


def test_names_of_tests_are_at_most_70_characters() -> None:
    names = [
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 1000
    assert [name for name in names if len(name) > LONGEST_TEST_NAME] == []


def test_every_module_is_imported_by_a_test_under_its_name() -> None:
    imported = {name for path in TESTS.rglob("*.py") for name in imported_modules(path)}
    assert [dotted(path) for path in MODULES if dotted(path) not in imported] == []


def test_every_package_says_what_it_is_and_lists_its_names() -> None:
    bare = []
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                 if isinstance(target, ast.Name)}  # fmt: skip
        if len(ast.get_docstring(tree) or "") < 60 or ("__all__" not in names and path.parent.name != "membrain_cloud"):
            bare.append(dotted(path))
    assert bare == []


@pytest.mark.parametrize("least_parameters", [1, 2])
def test_docstrings_name_their_parameters(least_parameters: int) -> None:
    """At least 90 % describe every parameter in a section; the rest are overrides whose base class does."""
    described, missing = 0, []
    for path in MODULES:
        if "cli" in path.relative_to(PACKAGE).parts:
            continue
        for function in functions(path):
            if len(parameters(function)) < least_parameters:
                continue
            section = (ast.get_docstring(function) or "").partition("Parameters\n----------")[2]
            if all(re.search(rf"(?m)^(?:[\w*]+, )*\*{{0,2}}{p.arg}\b", section) for p in parameters(function)):
                described += 1
            else:
                missing.append(f"{dotted(path)}.{function.name}")
    assert described / (described + len(missing)) >= 0.9, missing


def test_array_parameters_have_a_shape_and_a_dtype() -> None:
    """At least 90 % of the functions with array parameters state a shape; the rest refer to another function."""
    stated, missing = 0, []
    for path in MODULES:
        for function in functions(path):
            arrays = [p for p in parameters(function) if p.annotation and _ARRAY.search(ast.unparse(p.annotation))]
            if not arrays:
                continue
            text = ast.get_docstring(function) or ""
            has_shape = re.search(r"\(\w+(?:, [\w /+*]+)*,?\)|any shape|shape of", text)
            has_dtype = re.search(r"float|int|bool|uint8|dtype|complex", text)
            if has_shape and has_dtype:
                stated += 1
            else:
                missing.append(f"{dotted(path)}.{function.name}")
    assert stated / (stated + len(missing)) >= 0.9, missing


def test_no_text_below_the_command_line_names_an_option() -> None:
    """Errors and docstrings name parameters and settings; `cli.app.error_line` translates them to options."""
    named = [
        f"{dotted(path)}:{node.lineno}: {option}"
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value)
        if option not in FOREIGN_OPTIONS
    ]
    assert named == []


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_entry_pages_are_short(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) < {"README.md": 150, "ARCHITECTURE.md": 200}[name]
    assert max(map(len, lines)) < {"README.md": 125, "ARCHITECTURE.md": 120}[name]

"""The notebooks run from top to bottom and show their figures."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOK, ONE_TOMOGRAM = NOTEBOOKS / "statistics.ipynb", NOTEBOOKS / "one-tomogram.ipynb"
XARRAY = NOTEBOOKS / "xarray.ipynb"


def execute(
    project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, path: Path = NOTEBOOK
) -> nbformat.NotebookNode:
    from nbclient import NotebookClient

    monkeypatch.setenv("MEMBRAIN_PROJECT", str(project))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the kernel's client
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def images(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_runs_on_a_specimen(
    measured_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = execute(measured_project / "project" / "config.json", tmp_path, monkeypatch)
    assert images(notebook) == 3
    stderr = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert stderr == []


def test_the_notebook_of_one_tomogram_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(tmp_path, tmp_path, monkeypatch, ONE_TOMOGRAM)
    assert images(notebook) == 3


def test_the_notebook_of_xarray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import xarray

    if "ome-zarr" not in xarray.backends.list_engines():
        pytest.skip("the package was installed before it had the engine ome-zarr: install it again")
    notebook = execute(tmp_path, tmp_path, monkeypatch, XARRAY)
    assert images(notebook) == 3


@pytest.mark.parametrize("path", [NOTEBOOK, ONE_TOMOGRAM, XARRAY], ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_figures_and_without_paths(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert images(notebook) == 3
    text = path.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert not any(o.get("output_type") == "error" for c in notebook.cells if c.cell_type == "code" for o in c.outputs)


@pytest.mark.slow
def test_the_notebook_runs_on_a_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "membrain_cloud", "demo", str(tmp_path / "demo"), "--small"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert images(execute(tmp_path / "demo" / "config.json", tmp_path, monkeypatch)) == 3

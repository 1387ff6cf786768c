"""A batch goes on past bad files, and "this is a bug" is said of bugs alone."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from standins.command_line import call

from membrain_cloud.cli.read_options import empty_chunks_option, label_threshold_option
from membrain_cloud.store.formats.volume_writer import write_mrc

VALUES = np.random.default_rng(0).normal(size=(10, 12, 14)).astype(np.float32)
SUFFIXES = {
    "components": "mrc", "skeletonize": "mrc", "thresholds -t 0": "mrc", "segment": "mrc",
    "import segmentation config.json": "mrc", "import picks config.json": "star", "import meshes config.json": "obj",
    "preprocess extract-spectrum": "mrc",
}  # fmt: skip
KINDS = ("folder", "empty", "device", "pipe", "link", "long", "text", "cut", "unreadable")


def make(kind: str, suffix: str) -> str:
    """Make something bad in the current folder, and return its name."""
    path = Path(f"{kind}.{suffix}")
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("gone")
    elif kind == "long":
        return f"{'x' * 256}.{suffix}"
    elif kind == "cut":
        path = Path(f"cut.{suffix}.gz" if suffix == "mrc" else f"cut.{suffix}")
        path.write_bytes(gzip.compress(b"0" * 4096)[:20])
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n" * 300}.get(kind, b"x"))
    return str(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert call("project", "init", ".").exit_code == 0
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", SUFFIXES)
def test_no_bad_file_is_called_a_bug(monkeypatch: pytest.MonkeyPatch, words: str, kind: str) -> None:
    name = make(kind, SUFFIXES[words])
    if kind == "unreadable":
        opened = Path.open

        def refuse(path: Path, *arguments: object, **options: object) -> object:
            if path.name == name:
                raise PermissionError(13, "Permission denied", name)
            return opened(path, *arguments, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", refuse)
    options = {"import segmentation": ["-r", "T", "--user", "u"], "import meshes": ["-r", "T", "--user", "u"]}
    options["import picks"] = ["-r", "T", "--user", "u", "--object", "o"]
    options["preprocess extract-spectrum"] = ["--output", "s.tsv"]
    command = words.removesuffix(" config.json")
    result = call(*words.split(), name, *options.get(command, []))
    assert result.exit_code in (1, 2), result.output
    assert "bug" not in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()[-1]) > 20
    if kind == "unreadable" and words.split(maxsplit=1)[0] != "preprocess":
        assert "Permission denied" in result.output


def test_project_init_goes_on_past_bad_files(folder: Path) -> None:
    for name in "ad":
        write_mrc(str(folder / f"{name}.mrc"), VALUES, 10.0)
    write_mrc(str(folder / "b.mrc"), VALUES, 10.0)
    (folder / "b.mrc").write_bytes((folder / "b.mrc").read_bytes()[:-1000])
    (folder / "c.mrc.gz").write_bytes(gzip.compress((folder / "a.mrc").read_bytes())[:-500])
    (folder / "e.mrc").mkdir()
    result = call("project", "init", "p", "--tomograms", "*.mrc*")
    assert result.exit_code == 1
    assert "3 of 5 files failed" in result.stderr
    for cause in ("b.mrc", "its header asks for", "c.mrc.gz", "compressed file is damaged", "it is a folder"):
        assert cause in result.stderr
    assert sorted(path.name for path in (folder / "p/ExperimentRuns").iterdir()) == ["a", "d"]
    refused = call("project", "init", "q", "--tomograms", "b.mrc")
    assert refused.exit_code == 2
    assert not (folder / "q").exists()


def test_commands_over_files_end_with_a_table(folder: Path) -> None:
    write_mrc(str(folder / "a.mrc"), (VALUES > 1).astype(np.int8), 10.0)
    write_mrc(str(folder / "b.mrc"), VALUES, 10.0)
    result = call("components", "a.mrc", "b.mrc", "gone.mrc", "--output", "out")
    assert result.exit_code == 1
    assert [path.name for path in (folder / "out").iterdir()] == ["a_components.mrc"]
    assert "2 of 3 files failed" in result.stderr
    assert "not whole numbers" in result.stderr


def test_a_fault_of_the_system_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    import membrain_cloud.store.projects.open as module

    def full(config: str) -> None:
        raise OSError(28, "No space left on device", config)

    monkeypatch.setattr(module, "open_project", full)
    result = call("import", "meshes", "config.json", "config.json", "-r", "T", "--user", "u")
    assert result.exit_code == 2
    assert "config.json: No space left on device -> " in result.output
    assert {empty_chunks_option, label_threshold_option}

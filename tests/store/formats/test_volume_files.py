"""Names of volume files, and compressed files."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.volume_files import file_stem, is_compressed, open_content, split_name, unpacked


@pytest.mark.parametrize(
    ("name", "stem", "kind"),
    [
        ("a/TS_1.rec.gz", "TS_1", "mrc"),
        ("a/TS_1.mrc.bz2", "TS_1", "mrc"),
        ("TS.1.mrc", "TS.1", "mrc"),
        ("x.ome.zarr", "x", "zarr"),
        ("s3://bucket/y.zarr/", "y", "zarr"),
        ("Z.TIF", "Z", "tiff"),
        ("a/X_0000.nii.gz", "X_0000", "nifti"),
        ("b.nrrd", "b", "nrrd"),
        ("c.npy", "c", "numpy"),
    ],
)
def test_names_say_stem_and_kind(name: str, stem: str, kind: str) -> None:
    assert split_name(name) == (stem, kind)
    assert file_stem(name) == stem
    assert is_compressed(name) == name.endswith((".gz", ".bz2"))


def test_other_names_are_refused() -> None:
    for name in ("x.dm4", "mrc", "x.gz", "x.zarr.txt"):
        with pytest.raises(TomogramError, match="not known"):
            split_name(name)


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_compressed_files_are_unpacked_and_removed(tmp_path: Path, ending: str) -> None:
    path, scratch = tmp_path / f"a.mrc{ending}", tmp_path / "scratch"
    scratch.mkdir()
    content = bytes(range(256)) * 1000
    path.write_bytes((gzip if ending == ".gz" else bz2).compress(content))
    with open_content(str(path)) as file:
        assert file.read(10) == content[:10]
    with unpacked(str(path), str(scratch)) as target:
        assert Path(target).read_bytes() == content
    assert not list(scratch.iterdir())


def test_a_damaged_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc.gz"
    packed = bytearray(gzip.compress(bytes(range(256)) * 1000))
    packed[30:40] = b"\xff" * 10  # within the compressed data
    path.write_bytes(packed)
    with pytest.raises(TomogramError, match=r"a\.mrc\.gz: the compressed file is damaged"), unpacked(str(path), None):
        pass

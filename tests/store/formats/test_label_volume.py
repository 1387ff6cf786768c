"""One rule for volumes of labels, in every command that reads one."""

from __future__ import annotations

import gzip
import struct
import warnings
from typing import TYPE_CHECKING, Any

import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from membrain_cloud.errors import InputError, TomogramError
from membrain_cloud.geometry import Box, Grid
from membrain_cloud.pipeline.files.postprocess import components_file, skeletonize_file
from membrain_cloud.pipeline.training.labelled_volumes import folder_volumes
from membrain_cloud.store.formats.label_volume import check_labels
from membrain_cloud.store.formats.volume_reader import open_volume_file, read_volume
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.import_annotations import import_segmentation
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from membrain_cloud.store.volumes.labels import as_marks, check_extent

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (12, 14, 16)
MASK = np.zeros(SHAPE, bool)
MASK[4:7, 3:11, 3:12] = True


def write(path: Path, array: np.ndarray, *, imod_flags: int | None = None, spacing: float = 10.0) -> Path:
    """Write an MRC by mrcfile, with IMOD's stamp where flags are given."""
    with warnings.catch_warnings(action="ignore"), mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(array))
        file.set_volume()
        file.voxel_size = spacing
    if imod_flags is not None:
        with path.open("r+b") as raw:
            raw.seek(152)
            raw.write(struct.pack("<2i", 1146047817, imod_flags))
    return path


def labels_of(path: Path, threshold: float | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    with open_volume_file(str(path)) as volume:
        labels = check_labels(volume, threshold=threshold)
        array = labels.read(Box((0, 0, 0), volume.shape))
        assert tuple(np.setdiff1d(np.unique(array), [0]).tolist()) == labels.values
        assert labels.top == array.max()
        return array, labels.notes


INSTANCES = np.where(MASK, np.arange(SHAPE[2]) // 6 + 1, 0)
RIGHT: dict[str, tuple[Any, int | None, Any, str]] = {
    "bool bytes": (MASK.astype(np.int8), None, MASK, ""),
    "floats": (MASK.astype(np.float32), None, MASK, ""),
    "half floats": (MASK.astype(np.float16), None, MASK, ""),
    "255 in 16 bits": (MASK.astype(np.int16) * 255, None, MASK, "255 is taken as 1"),
    "255 in floats": (MASK.astype(np.float32) * 255, None, MASK, "255 is taken as 1"),
    "IMOD's 0 and 1": ((MASK.astype(np.int16) - 128).astype(np.int8), 1, MASK, "128 is added"),
    "IMOD's 0 and 255": (np.where(MASK, 127, -128).astype(np.int8), 1, MASK, "255 is taken as 1"),
    "IMOD's labels": ((INSTANCES - 128).astype(np.int8), 1, INSTANCES, "128 is added"),
    "IMOD's stamp on 0 and 1": (MASK.astype(np.int8), 1, MASK, ""),
    "IMOD's unsigned bytes": (MASK.astype(np.int8), 0, MASK, ""),
    "instances": (INSTANCES.astype(np.uint16), None, INSTANCES, ""),
    "a label of 3000": (np.where(MASK, 3000, 0).astype(np.int16), None, np.where(MASK, 3000, 0), ""),
    "background alone": (np.zeros(SHAPE, np.int8), None, np.zeros(SHAPE), ""),
    "membrane alone": (np.ones(SHAPE, np.int8), None, np.ones(SHAPE), ""),
}
RESIDUE = MASK.astype(np.float32)
RESIDUE[0, 0, 0] = 1e-6
SOFT = MASK.astype(np.float32) * 0.98
GAPS = MASK.astype(np.float32)
GAPS[0] = np.nan
WRONG: dict[str, tuple[Any, int | None, str]] = {
    "scores": (np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), None, "are not whole numbers"),
    "probabilities": (SOFT, None, r"from 0 to 0.98\): scores, or a mask that was resampled"),
    "residue of resampling": (RESIDUE, None, "1 of 2688 values are not whole"),
    "NaN": (GAPS, None, "224 of 2688 voxels are NaN"),
    "negative": (np.where(MASK, 1, -1).astype(np.int16), None, "label -1 is below 0"),
    "255 read as signed": (np.where(MASK, -1, 0).astype(np.int8), None, "bytes are read as signed"),
    "shifted without a stamp": ((MASK.astype(np.int16) - 128).astype(np.int8), None, "without IMOD's stamp"),
    "no background": (np.where(MASK, 2, 1).astype(np.int8), None, "no voxel is 0"),
    "huge": (MASK.astype(np.float32) * 1e20, None, "too large for a label"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_labels_as_programs_write_them(tmp_path: Path, kind: str) -> None:
    array, flags, expected, note = RIGHT[kind]
    labels, notes = labels_of(write(tmp_path / "x.mrc", array, imod_flags=flags))
    assert labels.dtype.kind == "u"
    np.testing.assert_array_equal(labels, expected)
    assert note in "; ".join(notes)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_label_is_refused_by_every_reader(tmp_path: Path, kind: str) -> None:
    array, flags, cause = WRONG[kind]
    path = write(tmp_path / "x.mrc", array, imod_flags=flags)
    project = create_project(str(tmp_path / "p"), objects=[])
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "imagesTr/x.mrc", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    (tmp_path / "labelsTr/x.mrc").write_bytes(path.read_bytes())
    options: dict[str, Any] = {"output": str(tmp_path / "out"), "voxel_spacing_angstrom": None, "overwrite": False}
    for read in (
        lambda: import_segmentation(project, str(path), ObjectRef("T", "membrane", "a", "1"), instance=False),
        lambda: components_file(str(path), min_voxels=1, **options),
        lambda: skeletonize_file(str(path), **options),
        lambda: folder_volumes(tmp_path, "Tr", tmp_path / "prepared", margin=0),
    ):
        with pytest.raises(TomogramError, match=cause):
            read()
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_threshold_on_request(tmp_path: Path) -> None:
    for array, note in ((SOFT, ""), (GAPS, "224 voxels are not finite"), (RESIDUE, "")):
        path = write(tmp_path / "x.mrc", array)
        labels, notes = labels_of(path, 0.5)
        np.testing.assert_array_equal(labels, MASK)
        assert note in "; ".join(notes)
        made = components_file(
            str(path), min_voxels=1, output=str(tmp_path), voxel_spacing_angstrom=None, overwrite=True,
            label_threshold=0.5,
        )  # fmt: skip
        assert made.counts == (1,)
    assert labels_of(write(tmp_path / "x.mrc", SOFT), 2.0)[0].sum() == 0


def test_every_command_reads_one_mask_alike(tmp_path: Path) -> None:
    """IMOD's signed bytes: import, components, skeletonize and train take the same voxels as the plain mask."""
    stored = {"plain": (MASK.astype(np.int8), None), "imod": ((MASK.astype(np.int16) - 128).astype(np.int8), 1)}
    found = {}
    for name, (array, flags) in stored.items():
        folder = tmp_path / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        path = write(folder / "labelsTr/x.mrc", array, imod_flags=flags)
        write(folder / "imagesTr/x.mrc", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
        project = create_project(str(folder / "p"), objects=[])
        ref = import_segmentation(project, str(path), ObjectRef("T", "membrane", "a", "1"), instance=False)
        options: dict[str, Any] = {"output": str(folder), "voxel_spacing_angstrom": None, "overwrite": False}
        components_file(str(path), min_voxels=1, **options)
        skeletonize_file(str(path), **options)
        (volume,) = folder_volumes(folder, "Tr", folder / "prepared", margin=0)
        found[name] = [
            project.read_labels(ref),
            *(read_volume(str(folder / f"x_{ending}.mrc"))[0] for ending in ("components", "skel")),
            np.array([volume.membrane_voxels]),
        ]
    np.testing.assert_array_equal(found["plain"][0], MASK)
    assert found["plain"][3] == MASK.sum()
    for plain, imod in zip(found["plain"], found["imod"], strict=True):
        np.testing.assert_array_equal(plain, imod)


def test_masks_of_other_formats(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", MASK.astype(np.uint8) * 255)
    nibabel.save(nibabel.Nifti1Image(MASK.T.astype(np.uint8), np.diag([10, 10, 10, 1])), tmp_path / "x.nii.gz")
    np.save(tmp_path / "x.npy", MASK)
    content = write(tmp_path / "x.mrc", MASK.astype(np.int8)).read_bytes()
    (tmp_path / "y.mrc.gz").write_bytes(gzip.compress(content))
    for name in ("x.tif", "x.nii.gz", "x.npy", "y.mrc.gz"):
        np.testing.assert_array_equal(labels_of(tmp_path / name)[0], MASK)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    array=st.sampled_from(["int8", "int16", "uint16", "float32"]).flatmap(
        lambda dtype: hnp.arrays(dtype, (2, 3, 4), elements=None if dtype == "float32" else st.integers(0, 5))
    )
)
def test_any_volume_is_read_equal_or_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = write(tmp_path / "x.mrc", array)
    whole = np.isfinite(array).all() and (array == np.floor(array)).all() and array.min() >= 0
    try:
        labels, _ = labels_of(path)
    except TomogramError:
        few = len(np.unique(array)) > 1 and array.min() > 0
        assert few or not whole or array.max() > 2**32 - 1
        return
    expected = (array != 0) if set(np.unique(array).tolist()) <= {0, 255} else array
    np.testing.assert_array_equal(labels, expected)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    project = create_project(str(tmp_path / "p"), objects=[])
    project.write_tomogram(TomogramRef("T", "wbp", 10.0), np.random.default_rng(0).normal(size=SHAPE))
    target = ObjectRef("T", "membrane", "a", "1")
    for array, spacing, fits in (
        (MASK, 10.0, True),
        (MASK[::2, ::2, ::2], 20.0, True),
        (MASK, 13.0, False),
        (MASK[:-2], 10.0, False),
        (MASK.transpose(2, 1, 0), 10.0, False),
    ):
        path = str(write(tmp_path / "x.mrc", array.astype(np.int8), spacing=spacing))
        if fits:
            import_segmentation(project, path, target, instance=False)
        else:
            with pytest.raises(InputError, match=r"voxels of .* but T"):
                import_segmentation(project, path, target, instance=False)


def test_extents_agree_within_a_voxel_of_the_coarser() -> None:
    check_extent(Grid((10, 10, 10), 40.0), "m", {})
    check_extent(Grid((10, 10, 10), 40.0), "m", {"t": Grid((39, 40, 41), 10.0)})
    check_extent(Grid((500, 960, 928), 13.48), "m", {"t": Grid((500, 960, 928), 13.5)})
    with pytest.raises(InputError, match="10 x 10 x 10 voxels of 10 Å, 100 x 100 x 100 Å, but t has 40"):
        check_extent(Grid((10, 10, 10), 10.0), "m", {"t": Grid((40, 40, 40), 10.0)})


def test_marks_of_a_mask() -> None:
    assert as_marks(np.array([0, 1, 2, 3, 255], np.uint8), "x").tolist() == [0, 1, 2, 3, 1]
    with pytest.raises(InputError, match="holds the value 4"):
        as_marks(np.array([4], np.uint8), "x")

"""The parts of a project over a manifest: rows are trusted, arrays are checked and kept open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError, ProjectError, TomogramError
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.projects.manifest import Manifest, ManifestRow
from membrain_cloud.store.projects.manifest_parts import ManifestCatalog, SourceArrays
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


def row_of(project: Project, run: str, shape: tuple[int, int, int] = (4, 4, 4)) -> ManifestRow:
    ref = TomogramRef(run, "wbp", 10.0)
    return ManifestRow(run, "d", None, ref, 10.0, shape, "0", f"{project.root_url}/{ref.path}", "id", 0)


def test_a_catalog_lists_rows_and_refuses_other_runs(project: Project) -> None:
    row = row_of(project, "TS_1")
    catalog = ManifestCatalog("m.parquet", Manifest({}, {"TS_1": row}, {"bad": ProjectError("x", "y")}))
    assert catalog.runs() == catalog.check_runs(["TS_1", "TS_1"]) == ["TS_1"]
    assert list(catalog.bad_runs()) == ["bad"]
    assert catalog.tomograms("TS_1") == [row.ref]
    assert catalog.tomograms("TS_2") == []
    assert (catalog.dataset_of("TS_1"), catalog.tomogram_id("TS_1"), catalog.dataset_of("TS_2")) == ("d", "TS_1", None)
    with pytest.raises(ProjectError, match=r"m\.parquet has no run 'TS_2'"):
        catalog.check_runs(["TS_2"])
    with pytest.raises(BadNameError):
        catalog.check_runs(["../TS_1"])


def test_the_last_arrays_are_kept_open(project: Project) -> None:
    for run in range(10):
        project.write_tomogram(TomogramRef(f"TS_{run}", "wbp", 10.0), np.zeros((4, 4, 4), np.float32))
    sources = SourceArrays(project.root_url, {}, {})
    arrays = [sources.array(row_of(project, f"TS_{run}")) for run in range(10)]
    assert sources.array(row_of(project, "TS_9")) is arrays[9]
    assert sources.array(row_of(project, "TS_2")) is arrays[2]
    assert sources.array(row_of(project, "TS_0")) is not arrays[0]
    with pytest.raises(TomogramError, match="the manifest says"):
        sources.array(row_of(project, "TS_1", (4, 4, 5)))
    with pytest.raises(ProjectError, match="make the manifest again"):
        sources.array(row_of(project, "TS_10"))


def test_every_level_of_a_metered_tomogram_is_counted(project: Project, tmp_path: Path) -> None:
    from membrain_cloud.store.projects.manifest import freeze

    ref = TomogramRef("TS_1", "wbp", 10.0)
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    project.write_tomogram(ref, values)
    freeze(project, str(tmp_path / "all.parquet"), [ref], dataset="d", selection={})
    for level in (0, 1):
        meter = Meter()
        frozen = open_project(str(tmp_path / "all.parquet")).metered(meter)
        assert frozen.read_density(ref, level=level).shape == (16 >> level,) * 3
        assert meter.bytes_read > 4 * (16 >> level) ** 3 // 2

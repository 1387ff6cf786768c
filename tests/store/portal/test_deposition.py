"""Depositions: everything is checked before anything is copied, and configs name what was copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Picks
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.portal.deposition import (
    DepositedAnnotation,
    DepositedRun,
    DepositionReport,
    Description,
    deposited_object,
    write_deposition,
)
from membrain_cloud.store.portal.deposition_schema import validated
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

METADATA = {
    "annotation_method": "by hand",
    "method_type": "manual",
    "authors": [{"name": "A. Author", "primary_author_status": True}],
    "dates": {"deposition_date": "2025-01-01", "release_date": "2025-02-01", "last_modified_date": "2025-02-01"},
}
DESCRIPTION = Description(10310, METADATA, "annotations")
MASK = DepositedAnnotation("segmentation", "membrane:alice/1", "GO:0016020", "membrane")
PICKS = DepositedAnnotation("picks", "psii:alice/1", "GO:0009523", "photosystem II")
RUNS = [DepositedRun("TS_1", "portal-1", "10301", 10.0), DepositedRun("TS_2", "portal-2", "10301", 10.0)]


@pytest.fixture
def annotated(project: Project) -> Project:
    """Write a mask to two runs, and picks to the first."""
    for run in ("TS_1", "TS_2"):
        mask = SegmentationRef(run, "membrane", "alice", "1", 10.0)
        project.write_segmentation(mask, np.ones((4, 4, 4), np.uint8))
    project.write_picks(ObjectRef("TS_1", "psii", "alice", "1"), Picks(np.ones((2, 3))))
    return project


def deposit(project: Project, folder: Path, *annotations: DepositedAnnotation, **changes: Any) -> DepositionReport:
    values = {"runs": RUNS, "description": DESCRIPTION} | changes
    return write_deposition(project, str(folder), annotations=annotations, **values)


def test_annotations_are_copied_under_the_portals_names(annotated: Project, tmp_path: Path) -> None:
    report = deposit(annotated, tmp_path / "out", MASK, PICKS)
    assert report.copied == {"segmentation": 2, "picks": 1}
    assert report.missing == ["TS_2/psii:alice/1"]
    config = yaml.safe_load((tmp_path / "out" / "10301.yaml").read_text())
    validated(config, "the config")
    mask, picks = config["annotations"]
    assert mask["metadata"]["annotation_ingest_id"] == "membrane-segmentation-1"
    glob = mask["sources"][0]["SemanticSegmentationMask"]["glob_string"].replace("{run_name}", "portal-2")
    copied = Files(str(tmp_path / "out")).listing(glob)
    source = annotated.files.listing(SegmentationRef("TS_2", "membrane", "alice", "1", 10.0).path)
    assert {name: info.size for name, info in copied.items()} == {name: info.size for name, info in source.items()}
    assert picks["sources"][0]["OrientedPoint"]["binning"] == 10.0


def test_masks_of_another_spacing_are_marked_to_be_rescaled(annotated: Project, tmp_path: Path) -> None:
    finer = [DepositedRun("TS_1", "portal-1", "10301", 5.0, (8, 8, 8))]
    deposit(annotated, tmp_path / "out", MASK, runs=finer)
    (annotation,) = yaml.safe_load((tmp_path / "out" / "10301.yaml").read_text())["annotations"]
    assert annotation["sources"][0]["SemanticSegmentationMask"]["rescale"] is True


@pytest.mark.parametrize(
    ("annotation", "changes", "error", "cause"),
    [
        (DepositedAnnotation("instances", "membrane:alice/1", "GO:0016020", "m"), {}, UsageError, "given as instances"),
        (DepositedAnnotation("picks", "x:alice/1", "GO:0016020", "m"), {}, InputError, "no run has any"),
        (MASK, {"runs": [DepositedRun("TS_1", "p", "1", 10.0, (4, 4, 5))]}, InputError, "masks of one size"),
        (MASK, {"description": Description(1, METADATA | {"authors": []}, "x")}, UsageError, "authors"),
    ],
)
def test_nothing_is_copied_if_something_is_wrong(
    annotated: Project,
    tmp_path: Path,
    annotation: DepositedAnnotation,
    changes: dict[str, Any],
    error: type[Exception],
    cause: str,
) -> None:
    with pytest.raises(error, match=cause):
        deposit(annotated, tmp_path / "out", annotation, **changes)
    assert not (tmp_path / "out").exists()


def test_identifiers_come_from_the_caller_or_the_config(project: Project) -> None:
    assert deposited_object(project, "segmentation", "membrane:a/1", {}) == ("GO:0016020", "membrane")
    given = {"membrane": ("GO:0009579", "thylakoid")}
    assert deposited_object(project, "segmentation", "membrane:a/1", given) == ("GO:0009579", "thylakoid")
    with pytest.raises(ProjectError, match="no identifier for 'ribosome'"):
        deposited_object(project, "picks", "ribosome:a/1", {})

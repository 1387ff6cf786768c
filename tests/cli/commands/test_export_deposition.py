"""`membrain-cloud export deposition`: copies, and a config that follows the portal's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.cli.commands.exchange.export_deposition import AnnotationOptions
from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.store.portal.deposition_schema import validated
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

LABELS = np.arange(8 * 10 * 12).reshape(8, 10, 12) % 3


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = create_project(
        str(tmp_path / "project"), objects=[("membrane", False, "GO:0016020"), ("psii", True, None)]
    )
    for run in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), np.zeros((8, 10, 12), np.float32))
    for instance in (False, True):
        labels = (LABELS if instance else LABELS > 0).astype(np.uint8)
        project.write_segmentation(SegmentationRef("TS_1", "membrane", "membrain", "1a2b", 10.0, instance), labels)
    project.write_meshes(
        ObjectRef("TS_1", "membrane", "membrain", "1a2b"), {3: Mesh(np.eye(3) * 50, np.array([[0, 1, 2]], np.int32))}
    )
    normals = np.array([[0.0, 0, 1], [1, 0, 0]])
    project.write_picks(
        ObjectRef("TS_1", "psii", "membrain", "1a2b"),
        Picks(np.array([[10.0, 20, 30], [40, 50, 60]]), orientations_from_normals(normals)),
    )
    return project


def deposit(project: Project, target: Path, *words: str) -> Result:
    options = ["--deposition-id", "10303", "--dataset", "10001", "--author", "Alice Example,0000-0002-1825-0097"]
    return CliRunner().invoke(main, ["export", "deposition", project.config, str(target), *options, *words])


EVERYTHING = (
    *("--segmentation", "membrane:membrain/1a2b@10.0", "--instances", "membrane:membrain/1a2b?instance=true"),
    *(
        "--meshes",
        "membrane:membrain/1a2b",
        "--picks",
        "psii:membrain/1a2b",
        "--object",
        "psii=GO:0009523,photosystem II",
    ),
)


def test_results_are_copied_and_described(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "deposit"
    more = ("--link", "models_weights=https://example.org/model.ckpt", "--publication", "10.1101/2024.01.05.574336")
    result = deposit(project, target, *EVERYTHING, *more, "--json", "--precision", "90")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["copied"] == {"segmentation": 1, "instances": 1, "meshes": 1, "picks": 1}
    assert len(report["missing"]) == 4, "TS_2 has no annotation"
    content = yaml.safe_load(Path(report["configs"][0]).read_text())
    assert content["runs"] == [{"sources": [{"literal": {"value": ["TS_1"]}}]}]
    assert content["standardization_config"]["deposition_id"] == 10303
    mask, instances, mesh, picks = content["annotations"]
    assert mask["metadata"]["annotation_object"] == {"id": "GO:0016020", "name": "membrane"}
    assert mask["metadata"]["method_links"] == [
        {"link": "https://example.org/model.ckpt", "link_type": "models_weights"}
    ]
    assert mask["metadata"]["confidence"] == {"precision": 90.0}
    assert picks["metadata"]["annotation_object"]["name"] == "photosystem II"
    assert picks["sources"][0]["OrientedPoint"]["binning"] == 10.0
    assert picks["sources"][0]["parent_filters"] == {"include": {"voxel_spacing": ["10.000"]}}
    for entry, shape in (
        (mask, "SemanticSegmentationMask"),
        (instances, "InstanceSegmentationMask"),
        (mesh, "TriangularMesh"),
        (picks, "OrientedPoint"),
    ):
        path = target / entry["sources"][0][shape]["glob_string"].format(run_name="TS_1")
        assert path.exists(), path
    assert "rescale" not in mask["sources"][0]["SemanticSegmentationMask"]


def test_the_portal_reads_the_copies(project: Project, tmp_path: Path) -> None:
    """The portal's reader takes `location` / binning and the rotation, nothing else; masks are read with zarr."""
    import zarr

    place = ObjectRef("TS_1", "psii", "membrain", "1a2b")
    file = Path(project.root_url.removeprefix("local://")) / place.picks_path
    moved = json.loads(file.read_text())
    for point in moved["points"]:
        point["transformation_"][0][3] = 7.0
    file.write_text(json.dumps(moved))
    target = tmp_path / "deposit"
    assert deposit(project, target, *EVERYTHING).exit_code == 0
    points = json.loads((target / "copick" / place.picks_path).read_text())["points"]
    assert [p["location"]["x"] for p in points] == [17.0, 47.0]
    assert [p["transformation_"][0][3] for p in points] == [0.0, 0.0]
    ref = SegmentationRef("TS_1", "membrane", "membrain", "1a2b", 10.0, True)
    np.testing.assert_array_equal(zarr.open(str(target / "copick" / ref.path), mode="r")["0"][:], LABELS)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ((), "nothing to deposit"),
        (("--picks", "psii:membrain/1a2b"), "no identifier for 'psii'"),
        (("--picks", "psii:membrain/1a2b", "--object", "psii=ribosome"), "annotation_object.id"),
        (("--segmentation", "membrane:nobody/1"), "no run has any"),
        (("--segmentation", "membrane:membrain/1a2b?instance=true"), "without \\?instance"),
        (("--segmentation", "membrane:membrain/1a2b", "--publication", "my paper"), "annotation_publications"),
        (("--segmentation", "membrane:membrain/1a2b", "--release-date", "1999-01-01"), "before the deposition"),
        (("--segmentation", "membrane:membrain/1a2b", "--deposition-date", "tomorrow"), "deposition_date"),
        (("--segmentation", "membrane:membrain/1a2b", "--link", "code=https://x.org"), "TYPE is one of"),
        (("--segmentation", "membrane:membrain/1a2b", "--link", "website=example.org"), "method_links.0.link"),
        (("--segmentation", "membrane:membrain/1a2b", "--author", "Bob,1234"), "authors.1.ORCID"),
    ],
)
def test_a_breach_of_the_schema_is_refused_before_copying(
    project: Project, tmp_path: Path, words: tuple[str, ...], cause: str
) -> None:
    import re

    result = deposit(project, tmp_path / "deposit", *words)
    assert result.exit_code == 2
    assert re.search(cause, result.output), result.output
    assert not (tmp_path / "deposit").exists()


def test_annotations_come_by_kind_with_their_identifiers(project: Project) -> None:
    options = AnnotationOptions(
        picks=("psii:membrain/1a2b",),
        segmentation=("membrane:membrain/1a2b",),
        instances=(),
        meshes=(),
        objects=("psii=GO:0009523,photosystem II",),
    )
    annotations = options.annotations(project)
    assert [(a.kind, a.object_id, a.object_name) for a in annotations] == [
        ("segmentation", "GO:0016020", "membrane"),
        ("picks", "GO:0009523", "photosystem II"),
    ]


def test_authors_from_a_file(project: Project, tmp_path: Path) -> None:
    authors = tmp_path / "authors.yaml"
    authors.write_text("- name: Carol\n  affiliation_name: Institute\n  primary_author_status: true\n")
    words = ["--deposition-id", "1", "--dataset", "2", "--authors", str(authors)]
    words += ["--segmentation", "membrane:membrain/1a2b"]
    result = CliRunner().invoke(main, ["export", "deposition", project.config, str(tmp_path / "d"), *words])
    assert result.exit_code == 0, result.output
    content = yaml.safe_load((tmp_path / "d" / "2.yaml").read_text())
    assert content["annotations"][0]["metadata"]["authors"][0]["affiliation_name"] == "Institute"


def test_a_mask_of_another_spacing_is_marked_to_be_rescaled(project: Project, tmp_path: Path) -> None:
    project.write_tomogram(TomogramRef("TS_1", "denoised", 5.0), np.zeros((4, 4, 4), np.float32))
    result = deposit(project, tmp_path / "d", "--segmentation", "membrane:membrain/1a2b")
    assert result.exit_code == 0, result.output
    source = yaml.safe_load((tmp_path / "d" / "10001.yaml").read_text())["annotations"][0]["sources"][0]
    assert source["SemanticSegmentationMask"]["rescale"] is True
    assert source["parent_filters"] == {"include": {"voxel_spacing": ["5.000"]}}


def test_a_mask_of_another_size_is_refused(project: Project, tmp_path: Path) -> None:
    ref = SegmentationRef("TS_2", "membrane", "membrain", "1a2b", 10.0)
    project.write_segmentation(ref, np.ones((8, 10, 11), np.uint8))
    result = deposit(project, tmp_path / "d", "--segmentation", "membrane:membrain/1a2b")
    assert result.exit_code == 2
    assert "(8, 10, 11) voxels" in result.output
    assert not (tmp_path / "d").exists()


def example() -> dict[str, Any]:
    """Return a config like the portal's own for one of MemBrain-seg's masks."""
    named = [{"sources": [{"literal": {"value": ["10445"]}}]}]
    return {
        "depositions": [{"sources": [{"literal": {"value": [10310]}}]}],
        "datasets": named,
        "runs": named,
        "voxel_spacings": [{"sources": [{"literal": {"value": [4.99]}}]}],
        "standardization_config": {"deposition_id": 10310, "source_prefix": "somewhere"},
        "annotations": [
            {
                "metadata": {
                    "annotation_ingest_id": "membrane-1",
                    "annotation_method": "Prediction",
                    "annotation_object": {"id": "GO:0016020", "name": "membrane"},
                    "authors": [{"name": "A", "ORCID": "0000-0002-1825-0097"}],
                    "dates": dict.fromkeys(("deposition_date", "release_date", "last_modified_date"), "2025-02-20"),
                    "method_type": "automated",
                },
                "sources": [{"SemanticSegmentationMask": {"file_format": "mrc", "glob_strings": ["{run_name}.mrc"]}}],
            }
        ],
    }


def test_a_config_of_the_portal_is_valid() -> None:
    assert validated(example(), "x").as_dict() == example()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("metadata.method_type", "magic"),
        ("metadata.annotation_object.id", "membrane"),
        ("metadata.annotation_object.id", "UniProtKB:xyz"),
        ("metadata.authors", []),
        ("metadata.dates.release_date", "soon"),
        ("metadata.unknown", 1),
        ("metadata.confidence", {"precision": 120}),
        ("sources", []),
        ("sources.0.Point", {"file_format": "csv", "glob_string": "x"}),
        ("sources.0.SemanticSegmentationMask.glob_string", "also"),
        ("sources.0.SemanticSegmentationMask.file_format", "png"),
    ],
)
def test_the_schema_refuses(where: str, value: Any) -> None:
    content = example()
    *path, last = where.split(".")
    inner: Any = content["annotations"][0]
    for part in path:
        inner = inner[int(part) if part.isdigit() else part]
    inner[last] = value
    with pytest.raises(UsageError, match="cdp-ingestion-config"):
        validated(content, "x")


@pytest.mark.parametrize("key", ["depositions", "datasets", "runs", "voxel_spacings", "standardization_config"])
def test_a_required_key_may_not_be_absent(key: str) -> None:
    content = example()
    del content[key]
    with pytest.raises(UsageError, match=key):
        validated(content, "x")

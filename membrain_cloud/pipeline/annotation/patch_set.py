"""Sets of patches to annotate, in `membrain-cloud/patches/NAME/` of a project's overlay.

proposed/dataset=NAME/proposal-0001.parquet   the patches, a part each time some were added (patches.csv: all)
cells/                                        the uncertainty of each tomogram, summed over cells, so it is read once
project/config.json                           a copick project with a run for each patch, which annotators open
receipts/                                     what was proposed, extracted and merged, of which inputs, with digests
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.geometry import Box
from membrain_cloud.statistics.schema.column import Column, count, number, text
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import SegmentationRef, TomogramRef, check_object_name, parse_uri
from membrain_cloud.store.run_state.receipts import Receipts
from membrain_cloud.store.tables.parquet_tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

FOLDER = "membrain-cloud/patches"
"""Folder of all sets, in the overlay."""

TABLE = "proposed"
"""The table of patches."""

COLUMNS: tuple[Column, ...] = (
    text("patch", "its name, and that of its run in the patches' project"),
    text("run", "the run it is a part of"),
    text("tomogram_type", "the tomogram's"),
    number("voxel_spacing_angstrom", "Å", "the tomogram's"),
    count("z", "first voxel on the axis z"),
    count("y", "first voxel on the axis y"),
    count("x", "first voxel on the axis x"),
    count("depth", "voxels along z"),
    count("height", "voxels along y"),
    count("width", "voxels along x"),
    count("edge", "voxels asked for along each axis; a narrower tomogram gives narrower patches"),
    number("doubt", "", "mean over the patch of the variance that the proposal goes by"),
    text("evidence", "what the doubt was taken from: uncertainty or scores"),
    text("features", "the kept map that it was read from"),
    text("features_identity", "which content that map had"),
    text("prediction", "URI of the segmentation that annotators begin with"),
    text("model_sha256", "of the network that made it; NULL where it has no receipt"),
)


@dataclass(frozen=True)
class AnnotationPatch:
    """A patch of a tomogram, proposed for annotation; its fields are described in COLUMNS."""

    patch: str
    run: str
    tomogram_type: str
    voxel_spacing_angstrom: float
    z: int
    y: int
    x: int
    depth: int
    height: int
    width: int
    edge: int
    doubt: float
    evidence: str
    features: str
    features_identity: str
    prediction: str
    model_sha256: str | None

    @property
    def box(self) -> Box:
        """The patch within its tomogram, in voxels."""
        stop = (self.z + self.depth, self.y + self.height, self.x + self.width)
        return Box((self.z, self.y, self.x), stop)

    @property
    def tomogram(self) -> TomogramRef:
        """The tomogram it is a part of."""
        return TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)

    @property
    def predicted(self) -> SegmentationRef:
        """The segmentation, in the tomogram's own project, that annotators start from."""
        uri = parse_uri(self.prediction)
        return SegmentationRef(self.run, uri.name, uri.user, uri.session, self.voxel_spacing_angstrom, uri.instance)

    def as_dict(self) -> dict[str, Any]:
        """Return the row of the table."""
        return asdict(self)


class PatchSet:
    """The patches of one name in one project.

    Parameters
    ----------
    project : Project
        The project of the tomograms.
    name : str
        The set's name.

    Raises
    ------
    BadNameError
        If the name cannot be one of a folder.
    """

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name = project, check_object_name(name, "set of patches")
        self.url = f"{project.root_url}/{FOLDER}/{name}"
        self.files = Files(self.url, project.storage_options)
        self.tables = Tables(self.url, project.storage_options, {TABLE: COLUMNS})

    @property
    def receipts(self) -> Receipts:
        """Records of what was proposed, extracted and merged."""
        return Receipts(f"{self.url}/receipts", self.project.storage_options)

    def patches(self) -> list[AnnotationPatch]:
        """Return all proposed patches in their order, or an empty list."""
        rows = self.tables.read(TABLE).to_pylist()
        names = [field.name for field in fields(AnnotationPatch)]
        return [AnnotationPatch(**{name: row[name] for name in names}) for row in rows]

    def require_patches(self) -> list[AnnotationPatch]:
        """Return all proposed patches in their order. ProjectError where there are none."""
        patches = self.patches()
        if not patches:
            names = ", ".join(sorted(self.project.files.children(FOLDER))) or "none"
            raise ProjectError(
                f"{self.project.config}: no patches {self.name!r} were proposed (there are: {names})",
                "propose some: membrain-cloud patches propose",
            )
        return patches

    def add(self, patches: Sequence[AnnotationPatch], provenance: Mapping[str, Any]) -> None:
        """Add patches to the table and the CSV, and write their receipt last.

        Parameters
        ----------
        patches : sequence of AnnotationPatch
            At least one, numbered after those that the set has.
        provenance : mapping of str to Any
            What the receipt says of them, JSON-able.

        Raises
        ------
        StorageError
            If the overlay cannot be written.
        """
        part = f"proposal-{int(patches[0].patch.rpartition('-')[2]):04d}"
        self.tables.write_part(TABLE, self.name, part, [patch.as_dict() for patch in patches])
        self.write_csv(self.patches())
        self.receipts.write(f"proposed/{part}", {**provenance, "patches": [patch.as_dict() for patch in patches]})

    def write_csv(self, patches: Sequence[AnnotationPatch]) -> None:
        """Write patches.csv with the given patches.

        Parameters
        ----------
        patches : sequence of AnnotationPatch
            The rows, in the order in which they are written.
        """
        out = io.StringIO()
        writer = csv.DictWriter(out, [column.name for column in COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(patch.as_dict() for patch in patches)
        self.files.write("patches.csv", out.getvalue().encode())

    def next_number(self, patches: Sequence[AnnotationPatch]) -> int:
        """Return the number of the next patch after the given ones.

        Parameters
        ----------
        patches : sequence of AnnotationPatch
            The patches there are; the number is the last part of their names.
        """
        return 1 + max((int(patch.patch.rpartition("-")[2]) for patch in patches), default=0)


def select_patches(patches: Sequence[AnnotationPatch], names: Sequence[str]) -> list[AnnotationPatch]:
    """Return the patches of given names.

    Parameters
    ----------
    patches : sequence of AnnotationPatch
        All patches of a set.
    names : sequence of str
        Names of patches; empty for all.

    Returns
    -------
    list of AnnotationPatch
        In the order of `patches`.

    Raises
    ------
    UsageError
        If no patch has one of the names.
    """
    existing = {patch.patch for patch in patches}
    for name in names:
        if name not in existing:
            raise UsageError(f"there is no patch {name!r}", f"there are {min(existing)} to {max(existing)}")
    return [patch for patch in patches if not names or patch.patch in names]

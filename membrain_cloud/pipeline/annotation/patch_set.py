"""Sets of patches to annotate: `membrain-cloud/patches/NAME/` in a project's overlay, and what lies there.

proposed/dataset=NAME/proposal-0001.parquet   the patches, a part each time some were added (patches.csv: all)
cells/                                        how much doubt each tomogram holds where: read once
project/config.json                           a copick project with a run for each patch: what annotators open
receipts/                                     what was proposed, extracted and merged, of what, with digests
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
MEMBRANE = "membrane"
TABLE = "proposed"
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
class Patch:
    """One patch, as a row of the table (COLUMNS says what each is)."""

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
        stop = (self.z + self.depth, self.y + self.height, self.x + self.width)
        return Box((self.z, self.y, self.x), stop)

    @property
    def tomogram(self) -> TomogramRef:
        return TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)

    @property
    def predicted(self) -> SegmentationRef:
        """The segmentation in the tomogram's own project that the patch begins with."""
        uri = parse_uri(self.prediction)
        return SegmentationRef(self.run, uri.name, uri.user, uri.session, self.voxel_spacing_angstrom, uri.instance)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class PatchSet:
    """The patches of one name in one project."""

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name = project, check_object_name(name, "set of patches")
        self.url = f"{project.root_url}/{FOLDER}/{name}"
        self.files = Files(self.url, project.storage_options)
        self.tables = Tables(self.url, project.storage_options, {TABLE: COLUMNS})

    @property
    def receipts(self) -> Receipts:
        return Receipts(f"{self.url}/receipts", self.project.storage_options)

    def patches(self) -> list[Patch]:
        """All that were proposed, in order; empty where nothing was."""
        rows = self.tables.read(TABLE).to_pylist()
        names = [field.name for field in fields(Patch)]
        return [Patch(**{name: row[name] for name in names}) for row in rows]

    def require_patches(self) -> list[Patch]:
        """ProjectError where there are none."""
        found = self.patches()
        if not found:
            known = ", ".join(sorted(self.project.files.children(FOLDER))) or "none"
            raise ProjectError(
                f"{self.project.config}: no patches {self.name!r} were proposed (there are: {known})",
                "propose some: membrain-cloud patches propose",
            )
        return found

    def add(self, patches: Sequence[Patch], told: Mapping[str, Any]) -> None:
        """Add some: table, CSV, and a receipt of what is `told`, last."""
        part = f"proposal-{int(patches[0].patch.rpartition('-')[2]):04d}"
        self.tables.write_part(TABLE, self.name, part, [patch.as_dict() for patch in patches])
        self.write_csv(self.patches())
        self.receipts.write(f"proposed/{part}", {**told, "patches": [patch.as_dict() for patch in patches]})

    def write_csv(self, patches: Sequence[Patch]) -> None:
        out = io.StringIO()
        writer = csv.DictWriter(out, [column.name for column in COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(patch.as_dict() for patch in patches)
        self.files.write("patches.csv", out.getvalue().encode())

    def next_number(self, patches: Sequence[Patch]) -> int:
        return 1 + max((int(patch.patch.rpartition("-")[2]) for patch in patches), default=0)


def chosen_patches(patches: Sequence[Patch], names: Sequence[str]) -> list[Patch]:
    """Those of the names, or all; UsageError for a name there is not."""
    known = {patch.patch for patch in patches}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no patch {name!r}", f"there are {min(known)} to {max(known)}")
    return [patch for patch in patches if not names or patch.patch in names]

"""The stage `organelle`: meshes and segmentations of organelles -> the organelle of each membrane, as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.pipeline.stages.measure import membrane_of
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.separate import instances_ref
from membrain_cloud.store.projects.resolve import resolve
from membrain_cloud.store.refs import SegmentationRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.statistics.context.organelles import LabelVolume
    from membrain_cloud.store.projects.project import Project

_MULTILABEL = "-multilabel"


class Organelle(Stage):
    """Meshes and organelles -> rows of `membrane_organelles` and `organelle_shares`."""

    name = "organelle"
    data_version = 1
    keeps_receipts_in = "tables"

    def after(self, settings: Settings) -> Sequence[str]:
        """Return mesh."""
        return ("mesh",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the section `organelle`; the segmentations' identities are those of inputs."""
        return settings.organelle.digest_settings()

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether no organelles are given, so that there is nothing to do."""
        return settings.organelle.segmentations is None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return meshes, the instances that they are of, and the organelles that the run has.

        An organelle of one object may be absent from a run, such as one without mitochondria; not all may be.
        """
        inputs: dict[str, Ref] = {"instances": instances_ref(context), "meshes": MESH.output(context)}
        uris = context.settings.organelle.uris
        if not uris:
            raise InputError(
                "the stage organelle has no organelles", "set organelle.segmentations, e.g. to mitochondrion:alice/1"
            )
        found = [_segmentation(context.project, context.run, uri) for uri in uris]
        present = [ref for ref in found if ref is not None]
        if not present:
            context.project.segmentation(context.run, uris[0])  # raises, and lists what the run has
        return inputs | {f"organelle_{k + 1}": ref for k, ref in enumerate(present)}

    def output(self, context: RunContext) -> None:
        """Return None: it writes table rows."""

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of the meshes and of the volumes of organelles, their holes filled."""
        return BASE_BYTES + GIB // 2 + 4 * grid.voxels * max(1, len(settings.organelle.uris))

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Assign the membranes, and replace the tomogram's rows; count the membranes of each organelle."""
        from membrain_cloud.statistics.context.organelles import OrganelleRules, assign_organelles

        task, settings, project = context.task, context.settings.organelle, context.project
        instances = context.segmentation("instances")
        grid = project.grid(instances)
        refs = [ref for role, ref in task.inputs.items() if role.startswith("organelle_")]
        volumes = [
            _label_volume(project, ref, settings.names_of_labels) for ref in refs if isinstance(ref, SegmentationRef)
        ]
        organelles, shares = assign_organelles(
            {number: membrane_of(mesh, grid) for number, mesh in project.read_meshes(context.object("meshes")).items()},
            volumes,
            OrganelleRules(settings.reach_nm, settings.least_share, settings.least_margin, settings.least_enclosed),
        )
        uris = ", ".join(ref.uri for ref in refs if isinstance(ref, SegmentationRef))
        keys = {
            "dataset_id": context.dataset,
            "run_name": task.run,
            "tomogram_id": project.tomogram_id(task.run) or task.place,
            "voxel_spacing_angstrom": instances.voxel_spacing_angstrom,
            "segmentation": instances.uri,
            "digest": task.stage_digest,
        }
        part = f"{task.run}/{task.place}"
        for table, rows in (
            ("membrane_organelles", [{"organelles_uri": uris} | row for row in organelles]),
            ("organelle_shares", shares),
        ):
            context.tables.write_part(table, context.dataset, part, [keys | row for row in rows])
        known = [row["organelle"] for row in organelles]
        return {
            "membranes": len(organelles),
            "without_organelle": known.count(None),
            "ambiguous": sum(row["is_ambiguous"] for row in organelles),
            "of_organelle": {name: known.count(name) for name in sorted({name for name in known if name is not None})},
        }


ORGANELLE = Organelle()


def _segmentation(project: Project, run: str, uri: str) -> SegmentationRef | None:
    """Return the organelles that a URI names in a run, of one label or of several; None if the run has none."""
    for name in (uri, uri.replace(":", f"{_MULTILABEL}:", 1)):
        named = resolve(project, run, name)
        for ref in (named.get("segmentation"), named.get("instances"), named.get("multilabel")):
            if isinstance(ref, SegmentationRef):
                return ref
    return None


def _label_volume(project: Project, ref: SegmentationRef, given: Mapping[int, str]) -> LabelVolume:
    """Read organelles, and find the name of each label."""
    from membrain_cloud.statistics.context.organelles import LabelVolume

    values, grid = project.read_labels(ref), project.grid(ref)
    present = [int(value) for value in np.unique(values) if value]
    if ref.name.endswith(_MULTILABEL) or (given and not ref.instance and len(present) > 1):
        objects = {int(o["label"]): str(o["name"]) for o in project.settings["pickable_objects"] if o.get("label")}
        names = dict(given) or objects
        if unknown := [value for value in present if value not in names]:
            raise InputError(
                f"organelles {ref.uri}: no name for label {', '.join(map(str, unknown[:8]))}",
                "set organelle.labels, e.g. to 1=mitochondrion,2=er",
            )
        return LabelVolume(values, grid, {value: names[value] for value in present})
    if len(present) > 1 and not ref.instance:
        raise InputError(
            f"organelles {ref.uri}: a mask has {len(present)} labels",
            "set organelle.labels, e.g. to 1=mitochondrion,2=er",
        )
    return LabelVolume(values, grid, dict.fromkeys(present, ref.name), objects_apart=ref.instance)

"""Which runs of a project a deposition is about, and what the portal calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.store.portal.deposition import DepositedRun
from membrain_cloud.store.projects.manifest import extra_columns
from membrain_cloud.store.projects.stored_project import ManifestProject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.store.projects.project import Project

_OF_THE_PORTAL = ("portal_run_name", "full_voxel_spacing_angstrom")


def deposited_runs(project: Project, runs: Sequence[str], dataset: str | None) -> list[DepositedRun]:
    """The runs asked for (none: all) with the portal's names, datasets and voxel spacings.

    A portal manifest says all of it; of other projects the run's own name and spacing are taken.

    UsageError where nothing tells a run's dataset.
    """
    frozen = isinstance(project, ManifestProject)
    said = extra_columns(project.config, _OF_THE_PORTAL) if frozen else {}
    found = []
    for ref in project.tomograms(list(runs) or None, None, None):
        of_run = dataset or project.dataset_of(ref.run)
        if of_run is None:
            raise UsageError(f"nothing says of which dataset {ref.run} is", "give --dataset ID, or a portal manifest")
        portal = said.get(ref.run, {})
        full = portal.get("full_voxel_spacing_angstrom") or ref.voxel_spacing_angstrom
        shape = project.grid(ref).shape if abs(full - ref.voxel_spacing_angstrom) < 0.001 else None
        found.append(DepositedRun(ref.run, portal.get("portal_run_name") or ref.run, of_run, full, shape))
    return found

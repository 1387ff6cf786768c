"""The runs of a deposition, with their names, datasets and voxel spacings on the CryoET Data Portal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.store.portal.deposition import DepositedRun
from membrain_cloud.store.projects.manifest import extra_columns
from membrain_cloud.store.projects.stored_project import ManifestProject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.store.projects.project import Project

_PORTAL_COLUMNS = ("portal_run_name", "full_voxel_spacing_angstrom")


def deposited_runs(project: Project, runs: Sequence[str], dataset: str | None) -> list[DepositedRun]:
    """Return the runs to deposit, as the portal names them.

    A portal manifest holds the portal's names, datasets and full voxel spacings. For another project a run's own name
    and spacing are taken.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of the runs; empty for all.
    dataset : str or None
        The dataset of all runs; None to take it from the project.

    Returns
    -------
    list of DepositedRun
        One for each tomogram of the runs.

    Raises
    ------
    UsageError
        If the dataset of a run is unknown.
    """
    from_manifest = isinstance(project, ManifestProject)
    portal_columns = extra_columns(project.config, _PORTAL_COLUMNS) if from_manifest else {}
    deposited = []
    for ref in project.tomograms(list(runs) or None, None, None):
        dataset_of_run = dataset or project.dataset_of(ref.run)
        if dataset_of_run is None:
            cause = f"the dataset of {ref.run} is unknown"
            raise UsageError(cause, "name the dataset of all runs, or use a portal manifest")
        portal = portal_columns.get(ref.run, {})
        spacing = portal.get("full_voxel_spacing_angstrom") or ref.voxel_spacing_angstrom
        shape = project.grid(ref).shape if abs(spacing - ref.voxel_spacing_angstrom) < 0.001 else None
        portal_name = portal.get("portal_run_name") or ref.run
        deposited.append(DepositedRun(ref.run, portal_name, dataset_of_run, spacing, shape))
    return deposited

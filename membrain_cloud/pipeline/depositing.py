"""Which runs of a project a deposition is about, and what the portal calls them."""

from __future__ import annotations

from collections.abc import Sequence

from membrain_cloud.errors import UsageError
from membrain_cloud.store.deposition import DepositedRun
from membrain_cloud.store.project import Project


def deposited_runs(project: Project, runs: Sequence[str], dataset: str | None) -> list[DepositedRun]:
    """The runs asked for (none: all) with the portal's names, datasets and voxel spacings.

    UsageError where nothing tells a run's dataset.
    """
    found = []
    for ref in project.tomograms(list(runs) or None, None, None):
        if dataset is None:
            raise UsageError(f"nothing says of which dataset {ref.run} is", "give --dataset ID, or a portal manifest")
        found.append(DepositedRun(ref.run, ref.run, dataset, ref.voxel_spacing_angstrom, project.grid(ref).shape))
    return found

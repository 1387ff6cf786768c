"""From a mesh and picks to a `MeasuredMembrane`: check, repair, cut leaflets, leave out border caps, sort particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.leaflets import split_leaflets
from membrain_cloud.mesh.repair import repaired
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.statistics.model.options import Options


@dataclass(frozen=True, eq=False)
class Membrane:
    """A membrane to be measured, and its particles.

    Parameters
    ----------
    mesh : Mesh
        Closed shell around the membrane, V vertices, xyz in Å.
    picks : Picks or None
        The P particles of this membrane. None: particles are not measured, so their number is unknown, not 0.
    border_vertices : (V,) bool array
        Vertices that close the shell at the tomogram's border. Faces of three such vertices (caps) are not membrane:
        they are left out of areas, and no distance leads over them.
    object_names : str or sequence of P str
        What the particles are: one name for all, or one each.
    """

    mesh: Mesh
    picks: Picks | None
    border_vertices: NDArray[np.bool_]
    object_names: str | Sequence[str]


def prepare_membrane(
    membrane: Membrane, *, grid: Grid, options: Options, kinds: Sequence[str] = (), origin: str = ""
) -> MeasuredMembrane:
    """Repair a membrane's mesh and place its particles on it.

    Parameters
    ----------
    membrane : Membrane
        The membrane.
    grid : Grid
        Voxel grid of the tomogram.
    options : Options
        What to measure.
    kinds : sequence of str
        Names of particles that could be on the membrane, beside those that are.
    origin : str
        Run, tomogram and number of the membrane, as far as they are known; random numbers depend on it.

    Returns
    -------
    MeasuredMembrane
        The membrane, without gaps, density and lamella.

    Raises
    ------
    ValueError
        If the mesh cannot be repaired, or if the number of border flags or object names is wrong.
    """
    mesh, picks = membrane.mesh, membrane.picks
    if len(membrane.border_vertices) != len(mesh.vertices):
        raise ValueError(f"{len(membrane.border_vertices)} border flags for {len(mesh.vertices)} vertices")
    mesh = repaired(mesh)
    positions = np.zeros((0, 3)) if picks is None else np.asarray(picks.positions, np.float64).reshape(-1, 3)
    object_names = membrane.object_names
    names = [object_names] * len(positions) if isinstance(object_names, str) else list(object_names)
    if len(names) != len(positions):
        raise ValueError(f"{len(names)} object names for {len(positions)} particles")
    order = np.lexsort((names, *positions.T[::-1])) if len(positions) else np.zeros(0, np.int64)
    order = order[np.isfinite(positions[order]).all(axis=1)]
    caps = np.asarray(np.asarray(membrane.border_vertices, bool)[mesh.faces].all(axis=1))
    shell = Surface(mesh)
    groups = split_leaflets(shell) if options.leaflets_apart else None
    # A shell of caps alone is kept: particles can be placed on nothing else.
    kept = np.logical_not(caps) if not caps.all() else np.full(caps.shape, True)
    leaflets = None if groups is None else groups[kept]
    surface = shell if groups is None and kept.all() else Surface(Mesh(mesh.vertices, mesh.faces[kept]), leaflets)
    return MeasuredMembrane(
        shell=shell,
        surface=surface,
        leaflets=leaflets,
        grid=grid,
        picks=picks,
        order=order,
        names=tuple(names[i] for i in order),
        all_names=tuple(names),
        kind_names=tuple(sorted({*kinds, *names})),
        touches_border=bool(caps.any()),
        options=options,
        origin=origin,
    )

"""From a mesh and picks to a `MeasuredMembrane`: check, repair, cut leaflets, leave out border caps, sort particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.leaflets import leaflet_sides, split_leaflets
from membrain_cloud.mesh.repair import repaired
from membrain_cloud.mesh.rims import faces_another_side, rim_faces, rim_length
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.mesh.topology import twin_halfedges
from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import MeshSurface
    from membrain_cloud.statistics.model.options import Options

# One side of a membrane that the border cuts ends within this many voxels of the border.
END_VOXELS = 2.5
# Membranes are at most this thick, for telling the shell around one from a single surface.
THICKEST_ANGSTROM = 150.0


@dataclass(frozen=True, eq=False)
class Membrane:
    """A membrane to be measured, and its particles.

    Parameters
    ----------
    mesh : Mesh
        Mesh of the membrane, V vertices, xyz in Å. Its field `surface` tells what it is of; if that is None, a closed
        mesh is taken for the shell around the membrane, an open one for its mid-surface.
    picks : Picks or None
        The P particles of this membrane. None: particles are not measured, so their number is unknown, not 0.
    border_vertices : (V,) bool array
        Vertices that close the shell at the tomogram's border. Faces of three such vertices (caps) are not membrane:
        they are left out of areas, and no distance leads over them. Not used for one side or a mid-surface.
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
    kind = membrane.mesh.surface or mesh_surface_of(mesh)
    surfaces = _of_shell if kind == "shell" else _of_one_side
    return MeasuredMembrane(
        kind=kind,
        **surfaces(mesh, membrane, grid, options),
        grid=grid,
        picks=picks,
        order=order,
        names=tuple(names[i] for i in order),
        all_names=tuple(names),
        kind_names=tuple(sorted({*kinds, *names})),
        options=options,
        origin=origin,
    )


def mesh_surface_of(mesh: Mesh) -> MeshSurface:
    """Tell from its shape what a mesh is of.

    Parameters
    ----------
    mesh : Mesh
        A mesh that does not say what it is of.

    Returns
    -------
    {"shell", "midsurface"}
        A mesh most of whose faces have another part of the mesh behind them, within the thickness of a membrane, is a
        shell. Of other meshes, an open one is a mid-surface, since the shell around a slab is closed; a closed one is
        taken for a shell.
    """
    surface = Surface(mesh)
    if surface.is_closed:
        return "shell"
    backed = faces_another_side(surface, THICKEST_ANGSTROM) * surface.face_areas
    return "shell" if backed.sum() > 0.5 * surface.face_areas.sum() else "midsurface"


def is_ambiguous(mesh: Mesh) -> bool:
    """Tell whether a mesh may be either a shell or the closed surface of a vesicle.

    Parameters
    ----------
    mesh : Mesh
        A mesh, vertices in Å.

    Returns
    -------
    bool
        True for a closed mesh without two leaflets, if the mesh does not say what it is of.
    """
    if mesh.surface is not None:
        return False
    surface = Surface(repaired(mesh))
    return surface.is_closed and split_leaflets(surface) is None


def _of_shell(mesh: Mesh, membrane: Membrane, grid: Grid, options: Options) -> dict[str, Any]:
    """Return the fields of a `MeasuredMembrane` that a closed shell gives: without caps, cut at rims."""
    caps = np.asarray(np.asarray(membrane.border_vertices, bool)[mesh.faces].all(axis=1))
    shell = Surface(mesh)
    sides = leaflet_sides(shell)
    # A shell of caps alone is kept: particles can be placed on nothing else.
    kept = np.logical_not(caps) if not caps.all() else np.full(caps.shape, True)
    rim, length = np.full(len(kept), False), 0.0
    if sides is not None:
        rim, length = rim_faces(shell, sides[0], kept), rim_length(shell, sides[1], kept)
        if rim[kept].all():
            rim[:] = False
    apart = sides is not None and options.leaflets_apart
    own = kept & ~rim if apart else kept
    leaflets = sides[0][own] if apart and sides is not None else None
    surface = shell
    if apart or not own.all():
        twins = twin_halfedges(mesh.faces, len(mesh.vertices))
        at_rim = (twins >= 0) & rim[twins // 3]
        surface = Surface(Mesh(mesh.vertices, mesh.faces[own]), leaflets, rims=at_rim.reshape(-1, 3)[own].reshape(-1))
    return {
        "shell": shell,
        "surface": surface,
        "with_rims": Mesh(mesh.vertices, mesh.faces[kept]),
        "in_rims": np.flatnonzero(own[kept]),
        "one_sided_areas": np.where(rim[own], 0.0, surface.face_areas / 2.0),
        "rim_length": length,
        "thickness": None,
        "leaflets": leaflets,
        "touches_border": bool(caps.any()),
    }


def _of_one_side(mesh: Mesh, membrane: Membrane, grid: Grid, options: Options) -> dict[str, Any]:
    """Return the fields of a `MeasuredMembrane` that one side of a membrane or its mid-surface gives."""
    surface = Surface(mesh)
    thickness, areas = membrane.mesh.thickness_angstrom, surface.face_areas
    if membrane.mesh.surface == "side" and thickness is not None:
        # The area of the membrane is that of its mid-surface, half of the thickness behind the side.
        areas = Mesh(mesh.vertices - 0.5 * thickness * surface.normals, mesh.faces).face_areas_angstrom2()
    ends = mesh.vertices[surface.boundary_vertices] + 0.5 * grid.voxel_spacing_angstrom
    to_border = np.minimum(ends, np.array(grid.size_angstrom) - ends)
    return {
        "shell": surface,
        "surface": surface,
        "with_rims": mesh,
        "in_rims": np.arange(len(mesh.faces)),
        "one_sided_areas": areas,
        "rim_length": 0.0,
        "thickness": thickness,
        "leaflets": None,
        "touches_border": bool((to_border < END_VOXELS * grid.voxel_spacing_angstrom).any()),
    }

"""A membrane, its particles, and what several statistics need of them; each part is computed when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.leaflets import split_leaflets
from membrain_cloud.mesh.repair import repaired
from membrain_cloud.mesh.surface import Surface, SurfacePoints
from membrain_cloud.rotations import in_plane_angles_degrees
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.membrane.bilayer_thickness import Bilayer, Density, measure_bilayer
from membrain_cloud.statistics.spatial.chains import Linked, candidates, find_chains
from membrain_cloud.statistics.spatial.neighbors import Pairs, count_pairs
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.statistics.membrane.gaps import Gaps
    from membrain_cloud.statistics.membrane.lamella import Lamella
    from membrain_cloud.statistics.membrane.surface_properties import Values
    from membrain_cloud.statistics.model.options import Options

# Rings of neighbours that a vertex's curvature is fitted to.
CURVATURE_RINGS = 2
# Points of a boundary edge from which distances to it are measured.
EDGE_POINTS = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """shell : the closed surface around the membrane.  surface : the same without the caps at the tomogram's border,
    where particles are placed and distances are measured.  leaflets : (F,) of the surface's faces, 0 for the larger
    one; None where the shell has no two, or they are not told apart. The surface is cut between them.

    picks : as they came; None: none were asked for.  order : (N,) places in `picks` of the particles that are measured,
    those with finite positions; sorted by position, so that no sum depends on the caller's order.  names : (N,) theirs.
    kind_names : what particles there could be, sorted.  all_names : (P,) of all picks.

    gaps, density, lamella : None where not asked for or not known.
    """

    shell: Surface
    surface: Surface
    leaflets: NDArray[np.int64] | None
    grid: Grid
    picks: Picks | None
    order: NDArray[np.int64]
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    kind_names: tuple[str, ...]
    touches_border: bool
    options: Options
    gaps: Gaps | None = None
    density: Density | None = None
    lamella: Lamella | None = None

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """(N, 3) Å."""
        return np.zeros((0, 3)) if self.picks is None else np.asarray(self.picks.positions, np.float64)[self.order]

    @cached_property
    def orientations(self) -> NDArray[np.float64] | None:
        if self.picks is None or self.picks.orientations is None:
            return None
        return np.asarray(self.picks.orientations, np.float64)[self.order]

    @cached_property
    def turns_known(self) -> NDArray[np.bool_]:
        """(N,) whether the particle's turn about its z axis means something."""
        if self.orientations is None or self.picks is None:
            return np.zeros(len(self.order), bool)
        finite = np.isfinite(self.orientations).all(axis=(1, 2))
        return np.asarray(finite if self.picks.in_plane is None else finite & self.picks.in_plane[self.order])

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """(N,) number of each particle's name in `kind_names`."""
        return np.array([self.kind_names.index(name) for name in self.names], np.int64)

    @cached_property
    def at(self) -> SurfacePoints:
        """The particles' places on the surface: the nearest, of the leaflet that an oriented particle looks out of."""
        nearest = self.surface.closest_points(self.positions)
        if self.leaflets is None or self.orientations is None or not len(nearest):
            return nearest
        return _on_facing_leaflet(self.surface, self.leaflets, nearest, self.positions, self.orientations[:, :, 2])

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """(N, 3) outward unit normals of the surface at the particles' places."""
        return normals_at(self.surface, self.at)

    @cached_property
    def components(self) -> NDArray[np.int64]:
        """(N,) component of the surface each particle is on."""
        return self.surface.face_components[self.at.faces]

    @cached_property
    def component_areas(self) -> NDArray[np.float64]:
        """(C,) Å²."""
        return np.bincount(self.surface.face_components, self.surface.face_areas).astype(np.float64)

    @cached_property
    def face_leaflets(self) -> NDArray[np.int64]:
        """(F,) zeros where leaflets are not told apart."""
        return np.zeros(len(self.surface.faces), np.int64) if self.leaflets is None else self.leaflets

    @cached_property
    def curvatures(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (1/Å) and Gaussian (1/Å²) curvature of the surface's vertices."""
        return curvature(self.surface, rings=CURVATURE_RINGS)

    @cached_property
    def to_edge(self) -> NDArray[np.float64]:
        """(V,) Å along the surface to where the border or a rim ends it; inf far beyond reach and without ends."""
        return self._field(self.surface.boundary_points(EDGE_POINTS))

    @property
    def reach(self) -> float:
        """Å; distances to edges and classes are known so far."""
        return max(self.options.cutoff_angstrom, self.options.edge_width_angstrom)

    def _field(self, sources: SurfacePoints) -> NDArray[np.float64]:
        """(V,) Å from the nearest source: so far that every face with a point within reach has all its corners."""
        beyond = min(float(properties.longest_edges(self.surface).max()), self.reach)
        return self.surface.distance_from_any(sources, cutoff_angstrom=self.reach + beyond)

    @cached_property
    def edge_distances(self) -> NDArray[np.float64]:
        """(N,) Å of the particles; inf beyond reach."""
        return np.minimum(self.pairs.to_boundary, self.pairs.to_seam)

    @cached_property
    def is_edge(self) -> NDArray[np.bool_]:
        """(N,)"""
        return self.edge_distances <= self.options.edge_width_angstrom

    @cached_property
    def one_sided_area_nm2(self) -> float | None:
        """None where only border caps are left of the membrane."""
        only_caps = self.touches_border and len(self.surface.faces) == len(self.shell.faces)
        return None if only_caps else float(self.surface.face_areas.sum()) / 2.0 / ANGSTROM_PER_NM**2

    @cached_property
    def pairs(self) -> Pairs:
        return count_pairs(
            self.surface,
            self.at,
            self.kinds,
            cutoff_angstrom=self.options.cutoff_angstrom,
            bin_width_angstrom=self.options.bin_width_nm * ANGSTROM_PER_NM,
            boundary_cutoff_angstrom=self.options.edge_width_angstrom,
            n_neighbors=max(
                self.options.n_neighbors, 0 if self.options.chains is None else self.options.chains.n_neighbors
            ),
        )

    def angles_between(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """(L,) in-plane angles of pairs of particles, degrees; NaN where either's turn is not known."""
        found = np.full(len(one), np.nan)
        if self.orientations is None:
            return found
        told = np.flatnonzero(self.turns_known[one] & self.turns_known[other])
        found[told] = in_plane_angles_degrees(
            self.orientations[one[told]],
            self.orientations[other[told]],
            symmetry=self.options.symmetry,
            way=self.options.in_plane,
            normals=self.normals[one[told]] + self.normals[other[told]],
        )
        return found

    @cached_property
    def linked(self) -> list[Linked]:
        """The chains of each kind; empty where none are asked for or no orientation is known."""
        rules, near, found = self.options.chains, self.pairs.neighbors, []
        if rules is None or not self.turns_known.any():
            return []
        for kind in range(len(self.kind_names)):
            among = (self.kinds[near.sources] == kind) & (near.kinds == kind)
            links = candidates(self.positions, near.sources[among], near.targets[among], near.ranks[among], rules)
            angles = self.angles_between(links.one, links.other)
            found.append(Linked(kind, links, find_chains(self.positions, links, angles, rules)))
        return found

    @cached_property
    def bilayer(self) -> Bilayer | None:
        if self.density is None or self.gaps is None:
            return None
        return measure_bilayer(self.surface, self.leaflets, self.gaps.across, self.density)

    @cached_property
    def properties(self) -> list[Values]:
        """What is known of the surface and can be binned."""
        surface, at, known = self.surface, self.at, {scale.name: scale for scale in properties.PROPERTIES}
        mean, gauss = (values[surface.faces].mean(axis=1) for values in self.curvatures)
        at_faces = {scale.name: properties.of_curvatures(scale.name, mean, gauss) for scale in properties.CURVATURES}
        at_faces["verticality"] = properties.verticality(surface)
        if self.bilayer is not None:
            at_faces["bilayer_thickness_nm"] = self.bilayer.at_faces / ANGSTROM_PER_NM
        if self.gaps is not None:
            at_faces["distance_to_next_membrane_nm"] = self.gaps.to_next / ANGSTROM_PER_NM
            at_faces["distance_to_itself_nm"] = self.gaps.to_itself / ANGSTROM_PER_NM
        found = [properties.of_faces(known[name], values, surface, at) for name, values in at_faces.items()]
        found.append(
            properties.of_distances(
                known["distance_to_edge_nm"], self.to_edge, surface, self.edge_distances, self.reach
            )
        )
        return found + self._class_distances()

    def _class_distances(self) -> list[Values]:
        """Distances to the particles of each class, for the particles to the nearest other one."""
        found = []
        for kind, name in enumerate(self.kind_names):
            members = np.flatnonzero(self.kinds == kind)
            sources = self.surface.points(self.at.faces[members], self.at.weights[members])
            to_vertices = self._field(sources)
            nearest = self.pairs.neighbors.nearest(kind, len(self.order))
            scale = properties.distance_to_class(name)
            found.append(
                properties.of_distances(scale, to_vertices, self.surface, nearest, self.options.cutoff_angstrom, kind)
            )
        return found


def prepare(
    mesh: Mesh,
    picks: Picks | None,
    *,
    grid: Grid,
    border_vertices: NDArray[np.bool_],
    object_names: str | Sequence[str],
    options: Options,
    kinds: Sequence[str] = (),
) -> Measured:
    """Place a membrane's particles on it; parameters as `statistics.measure_membrane` has them."""
    if len(border_vertices) != len(mesh.vertices):
        raise ValueError(f"{len(border_vertices)} border flags for {len(mesh.vertices)} vertices")
    mesh = repaired(mesh)
    positions = np.zeros((0, 3)) if picks is None else np.asarray(picks.positions, np.float64).reshape(-1, 3)
    names = [object_names] * len(positions) if isinstance(object_names, str) else list(object_names)
    if len(names) != len(positions):
        raise ValueError(f"{len(names)} object names for {len(positions)} particles")
    order = np.lexsort((names, *positions.T[::-1])) if len(positions) else np.zeros(0, np.int64)
    order = order[np.isfinite(positions[order]).all(axis=1)]
    caps = np.asarray(np.asarray(border_vertices, bool)[mesh.faces].all(axis=1))
    shell = Surface(mesh)
    groups = split_leaflets(shell) if options.leaflets_apart else None
    # All caps: nothing better than the caps is there to place particles on.
    kept = np.logical_not(caps) if not caps.all() else np.full(caps.shape, True)
    leaflets = None if groups is None else groups[kept]
    surface = shell if groups is None and kept.all() else Surface(Mesh(mesh.vertices, mesh.faces[kept]), leaflets)
    return Measured(
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
    )


def normals_at(surface: Surface, at: SurfacePoints) -> NDArray[np.float64]:
    """(N, 3) outward unit normals at points."""
    normals = surface.interpolate(surface.normals, at)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _on_facing_leaflet(
    surface: Surface,
    leaflets: NDArray[np.int64],
    nearest: SurfacePoints,
    positions: NDArray[np.float64],
    axes: NDArray[np.float64],
) -> SurfacePoints:
    """`nearest`, but on the other leaflet where only that one's normal goes with the particle's z axis."""
    facing = (normals_at(surface, nearest) * axes).sum(axis=1)
    faces, weights = nearest.faces.copy(), nearest.weights.copy()
    for leaflet in range(2):
        numbers = np.flatnonzero(leaflets == leaflet)
        wrong = np.flatnonzero((leaflets[nearest.faces] != leaflet) & (facing < 0.0))
        if not len(wrong) or not len(numbers):
            continue
        found = Surface(Mesh(surface.vertices, surface.faces[numbers])).closest_points(positions[wrong])
        found = surface.points(numbers[found.faces], found.weights)
        better = (normals_at(surface, found) * axes[wrong]).sum(axis=1) > 0.0
        faces[wrong[better]], weights[wrong[better]] = found.faces[better], found.weights[better]
    placed = surface.points(faces, weights)
    return SurfacePoints(faces, weights, placed.positions, np.linalg.norm(placed.positions - positions, axis=1))

"""A membrane, its particles, and the quantities that several statistics share.

Each quantity is computed when it is first asked for. A local property (curvature, a distance, ...) has its bins in
`membrane.surface_properties.PROPERTIES` and its values in `MeasuredMembrane.properties`. Histograms, and neighbours and
pairs in its bins, follow from these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.rotations import in_plane_angles_degrees
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.membrane.bilayer_thickness import Bilayer, Density, measure_bilayer
from membrain_cloud.statistics.model.placement import normals_at, place_on_leaflets
from membrain_cloud.statistics.model.seeds import membrane_seed
from membrain_cloud.statistics.spatial.chains import Linked, candidates, find_chains
from membrain_cloud.statistics.spatial.neighbors import Pairs, count_pairs
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, MeshSurface, Picks
    from membrain_cloud.mesh.surface import Surface, SurfacePoints
    from membrain_cloud.statistics.membrane.gaps import Gaps
    from membrain_cloud.statistics.membrane.lamella import Lamella
    from membrain_cloud.statistics.membrane.surface_properties import Values
    from membrain_cloud.statistics.model.options import Options

# Rings of neighbours around a vertex that its curvature is fitted to.
CURVATURE_RINGS = 2
# Points on each boundary edge from which distances to the edge are measured.
EDGE_POINTS = 2


@dataclass(frozen=True, eq=False)
class MeasuredMembrane:
    """A membrane with N particles on it: what every row function reads.

    Particles are sorted by position, so that no sum depends on the order in which they came. `order` maps them back.

    Parameters
    ----------
    kind : {"shell", "side", "midsurface"}
        What the mesh is of: a closed shell around the membrane, one side of that, or the surface midway.
    shell : Surface
        The whole mesh.
    surface : Surface
        The mesh without caps at the tomogram's border, cut between leaflets, and without rims between them; V vertices
        and F faces. Particles are placed on it and distances run along it.
    with_rims : Mesh
        The mesh without caps at the tomogram's border, rims included.
    in_rims : (F,) int64 array
        Number of each face of `surface` in `with_rims`.
    one_sided_areas : (F,) float64 array
        Share of each face in the area of the membrane seen from one side, Å²: half of a face of a shell, 0 on a rim.
    rim_length : float
        Length of the rims between leaflets, Å.
    thickness : float or None
        Thickness of the slab that a side or mid-surface is of, Å; None if unknown, and for shells.
    leaflets : (F,) int64 array or None
        Leaflet of each face of `surface`, 0 for the larger one; None if the shell has no two or they are not told
        apart.
    grid : Grid
        Voxel grid of the tomogram.
    picks : Picks or None
        The particles as they came; None if particles are not measured.
    order : (N,) int64 array
        Places in `picks` of the particles that are measured: those with finite positions.
    names : tuple of N str
        Object name of each measured particle.
    all_names : tuple of str
        Object name of each of `picks`.
    kind_names : tuple of str
        Object names that could occur, sorted.
    touches_border : bool
        The tomogram's border cuts the membrane.
    options : Options
        What to measure.
    origin : str
        Run, tomogram and number of the membrane, as far as they are known; random numbers depend on it.
    gaps : Gaps or None
        Distances from the faces of `surface` to other membranes; None if not measured.
    density : Density or None
        Density around the membrane; None if unknown.
    lamella : Lamella or None
        Surfaces of the lamella; None if unknown.
    """

    kind: MeshSurface
    shell: Surface
    surface: Surface
    with_rims: Mesh
    in_rims: NDArray[np.int64]
    one_sided_areas: NDArray[np.float64]
    rim_length: float
    thickness: float | None
    leaflets: NDArray[np.int64] | None
    grid: Grid
    picks: Picks | None
    order: NDArray[np.int64]
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    kind_names: tuple[str, ...]
    touches_border: bool
    options: Options
    origin: str = ""
    gaps: Gaps | None = None
    density: Density | None = None
    lamella: Lamella | None = None

    # ---------------------------------------------------------------- particles

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """Centres of the particles, (N, 3) xyz in Å."""
        return np.zeros((0, 3)) if self.picks is None else np.asarray(self.picks.positions, np.float64)[self.order]

    @cached_property
    def orientations(self) -> NDArray[np.float64] | None:
        """Rotations of the particles, (N, 3, 3), columns are their axes; None if no orientations are known."""
        if self.picks is None or self.picks.orientations is None:
            return None
        return np.asarray(self.picks.orientations, np.float64)[self.order]

    @cached_property
    def in_plane_known(self) -> NDArray[np.bool_]:
        """Whether the rotation of each particle about its z axis is known, (N,)."""
        if self.orientations is None or self.picks is None:
            return np.zeros(len(self.order), bool)
        finite = np.isfinite(self.orientations).all(axis=(1, 2))
        return np.asarray(finite if self.picks.in_plane is None else finite & self.picks.in_plane[self.order])

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """Number of each particle's name in `kind_names`, (N,)."""
        return np.array([self.kind_names.index(name) for name in self.names], np.int64)

    @cached_property
    def at(self) -> SurfacePoints:
        """Nearest points of the surface to the particles, on the leaflet that an oriented particle points out of."""
        if self.leaflets is None or self.orientations is None or not len(self.positions):
            return self.surface.closest_points(self.positions)
        return place_on_leaflets(self.surface, self.leaflets, self.positions, self.orientations[:, :, 2])

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """Outward unit normals of the surface at the particles' places, (N, 3)."""
        return normals_at(self.surface, self.at)

    @cached_property
    def components(self) -> NDArray[np.int64]:
        """Connected component of the surface that each particle is on, (N,)."""
        return self.surface.face_components[self.at.faces]

    @cached_property
    def edge_distances(self) -> NDArray[np.float64]:
        """Distance of each particle along the surface to its end, (N,) Å; infinity beyond reach."""
        return np.minimum(self.pairs.to_boundary, self.pairs.to_seam)

    @cached_property
    def is_edge(self) -> NDArray[np.bool_]:
        """Whether each particle lies within the edge width of the surface's end, (N,)."""
        return self.edge_distances <= self.options.edge_width_angstrom

    @cached_property
    def seed(self) -> int:
        """Seed of the membrane's simulations: independent of other membranes', the same in every run."""
        return membrane_seed(self.origin, self.surface, self.positions, self.names, self.options)

    # ---------------------------------------------------------------- the surface

    @cached_property
    def component_areas(self) -> NDArray[np.float64]:
        """Area of each component of the surface, (C,) Å²."""
        return np.bincount(self.surface.face_components, self.surface.face_areas).astype(np.float64)

    @cached_property
    def face_leaflets(self) -> NDArray[np.int64]:
        """Leaflet of each face, (F,); zeros if leaflets are not told apart."""
        return np.zeros(len(self.surface.faces), np.int64) if self.leaflets is None else self.leaflets

    @cached_property
    def one_sided_area_nm2(self) -> float | None:
        """Area of the membrane seen from one side, rims not counted, nm²; None if the shell is border caps alone."""
        only_caps = self.touches_border and self.kind == "shell" and len(self.surface.faces) == len(self.shell.faces)
        return None if only_caps else float(self.one_sided_areas.sum()) / ANGSTROM_PER_NM**2

    @cached_property
    def one_sided_shares(self) -> NDArray[np.float64]:
        """Ratio of each face's one-sided area to its area, (F,); 0 for faces without area."""
        areas = self.surface.face_areas
        return np.divide(self.one_sided_areas, areas, out=np.zeros(len(areas)), where=areas > 0.0)

    @cached_property
    def across(self) -> NDArray[np.float64] | None:
        """Distance from each face along its inward normal to the membrane's other side, (F,) Å; None if unknown."""
        if self.kind == "shell":
            return None if self.gaps is None else self.gaps.across
        if self.kind == "midsurface":
            return np.zeros(len(self.surface.faces))
        return None if self.thickness is None else np.full(len(self.surface.faces), self.thickness)

    @cached_property
    def curvatures(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (1/Å) and Gaussian (1/Å²) curvature of the vertices, (V,) each."""
        return curvature(self.surface, rings=CURVATURE_RINGS)

    @cached_property
    def to_edge(self) -> NDArray[np.float64]:
        """Distance of each vertex along the surface to its end, (V,) Å; infinity beyond reach.

        The surface ends at the border's cut, at rims between leaflets and at holes.
        """
        return self._field(self.surface.boundary_points(EDGE_POINTS))

    @property
    def reach(self) -> float:
        """Distances to edges and classes are known up to this one, Å."""
        return max(self.options.cutoff_angstrom, self.options.edge_width_angstrom)

    def _field(self, sources: SurfacePoints) -> NDArray[np.float64]:
        """Return the (V,) distances (Å) to the nearest source.

        The cut-off lies beyond the reach by the longest edge, so that each face with a point within reach has the
        distances of all its corners.
        """
        beyond = min(float(properties.longest_edges(self.surface).max()), self.reach)
        return self.surface.distance_from_any(sources, cutoff_angstrom=self.reach + beyond)

    @cached_property
    def bilayer(self) -> Bilayer | None:
        """Density profile and thickness of the bilayer; None without density, or if the other side is unknown."""
        if self.density is None or self.across is None:
            return None
        return measure_bilayer(self.surface, self.leaflets, self.across, self.density)

    @cached_property
    def properties(self) -> list[Values]:
        """The local properties that are known of this membrane, in the order of their tables."""
        surface, at, scales = self.surface, self.at, {scale.name: scale for scale in properties.PROPERTIES}
        mean, gauss = (values[surface.faces].mean(axis=1) for values in self.curvatures)
        at_faces = {scale.name: properties.of_curvatures(scale.name, mean, gauss) for scale in properties.CURVATURES}
        at_faces["verticality"] = properties.verticality(surface)
        if self.bilayer is not None:
            at_faces["bilayer_thickness_nm"] = self.bilayer.at_faces / ANGSTROM_PER_NM
        if self.gaps is not None:
            at_faces["distance_to_next_membrane_nm"] = self.gaps.to_next / ANGSTROM_PER_NM
            at_faces["distance_to_itself_nm"] = self.gaps.to_itself / ANGSTROM_PER_NM
        measured = [properties.of_faces(scales[name], values, surface, at) for name, values in at_faces.items()]
        to_edge = properties.of_distances(
            scales["distance_to_edge_nm"], self.to_edge, surface, self.edge_distances, self.reach
        )
        return [*measured, to_edge, *self._class_distances()]

    def _class_distances(self) -> list[Values]:
        """Return the distances to the particles of each class; for a particle, to the nearest other one."""
        distances = []
        for kind, name in enumerate(self.kind_names):
            members = np.flatnonzero(self.kinds == kind)
            sources = self.surface.points(self.at.faces[members], self.at.weights[members])
            to_vertices = self._field(sources)
            nearest = self.pairs.neighbors.nearest(kind, len(self.order))
            scale = properties.distance_to_class(name)
            distances.append(
                properties.of_distances(scale, to_vertices, self.surface, nearest, self.options.cutoff_angstrom, kind)
            )
        return distances

    # ---------------------------------------------------------------- particles to each other

    @cached_property
    def pairs(self) -> Pairs:
        """Nearest neighbours and pair counts along the surface."""
        chain_neighbors = 0 if self.options.chains is None else self.options.chains.n_neighbors
        return count_pairs(
            self.surface,
            self.at,
            self.kinds,
            cutoff_angstrom=self.options.cutoff_angstrom,
            bin_width_angstrom=self.options.bin_width_nm * ANGSTROM_PER_NM,
            boundary_cutoff_angstrom=self.options.edge_width_angstrom,
            n_neighbors=max(self.options.n_neighbors, chain_neighbors),
        )

    def angles_between(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute the in-plane angles of pairs of particles.

        Parameters
        ----------
        one, other : (L,) int64 array
            Numbers of the two particles of each pair.

        Returns
        -------
        (L,) float64 array
            Angles in degrees, 0 to 180 / symmetry; NaN if either rotation about the z axis is unknown.
        """
        angles = np.full(len(one), np.nan)
        if self.orientations is None:
            return angles
        both = np.flatnonzero(self.in_plane_known[one] & self.in_plane_known[other])
        angles[both] = in_plane_angles_degrees(
            self.orientations[one[both]],
            self.orientations[other[both]],
            symmetry=self.options.symmetry,
            way=self.options.in_plane,
            normals=self.normals[one[both]] + self.normals[other[both]],
        )
        return angles

    @cached_property
    def linked(self) -> list[Linked]:
        """Chains of each kind; empty if no chains are looked for or no in-plane rotation is known."""
        rules, near = self.options.chains, self.pairs.neighbors
        if rules is None or not self.in_plane_known.any():
            return []
        linked = []
        for kind in range(len(self.kind_names)):
            within = (self.kinds[near.sources] == kind) & (near.kinds == kind)
            links = candidates(self.positions, near.sources[within], near.targets[within], near.ranks[within], rules)
            angles = self.angles_between(links.one, links.other)
            linked.append(Linked(kind, links, find_chains(self.positions, links, angles, rules)))
        return linked

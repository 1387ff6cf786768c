"""One membrane as the particles around it need it: sides, depth, and local properties of the surface."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.enclosure import sides_of
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.membrane.gaps import Gaps, find_gaps
from membrain_cloud.statistics.model.measured_membrane import EDGE_POINTS
from membrain_cloud.statistics.rows.membranes import MIN_INNER_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import SurfacePoints
    from membrain_cloud.statistics.membrane.bilayer_thickness import Density
    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane

# Slabs thicker than this are not taken for a membrane's thickness, Å.
THICKEST_ANGSTROM = 300.0


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A membrane, and what is asked of it at points around it; computed when it is first needed.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane, without particles.
    density_about : callable or None
        Returns the density around a mesh, for the bilayer; None measures none.
    """

    membrane: MeasuredMembrane
    density_about: Callable[[Mesh], Density | None] | None = None

    @property
    def surface(self) -> Surface:
        """The membrane's surface without border caps, cut between leaflets."""
        return self.membrane.surface

    @cached_property
    def box(self) -> NDArray[np.float64]:
        """Lower and upper corner of the surface's box, (2, 3) xyz in Å."""
        used = self.surface.vertices[np.unique(self.surface.faces)]
        return np.stack([used.min(axis=0), used.max(axis=0)])

    def box_distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distances of points to the box.

        Parameters
        ----------
        points : (N, 3) float64 array
            xyz in Å.

        Returns
        -------
        (N,) float64 array
            Å; 0 inside. No point of the surface is nearer.
        """
        return np.asarray(
            np.linalg.norm(np.maximum(np.maximum(self.box[0] - points, points - self.box[1]), 0.0), axis=1)
        )

    # ---------------------------------------------------------------- inside and outside

    @cached_property
    def is_shell(self) -> bool:
        """Whether the mesh is a closed shell around the membrane's slab, and not one surface."""
        return self.membrane.leaflets is not None or bool(self._inner_surfaces)

    @cached_property
    def lumen_surfaces(self) -> list[Surface]:
        """The closed surfaces around the membrane's lumen, normals out of the lumen; none of an open membrane.

        They are the inner surfaces of a shell, or the mesh itself where it is one closed surface. A membrane that the
        tomogram's border cuts has none.
        """
        if self.membrane.touches_border:
            return []
        if self.is_shell:
            return self._inner_surfaces
        shell = self.membrane.shell
        return [shell] if shell.is_closed and shell.volume > 0.0 else []

    @cached_property
    def _inner_surfaces(self) -> list[Surface]:
        """The shell's surfaces around holes in it, such as a lumen, wound the other way round."""
        shell = self.membrane.shell
        areas = np.bincount(shell.face_components, shell.face_areas)
        inner = []
        for component in np.flatnonzero(areas >= MIN_INNER_SHARE * areas.max()):
            faces = shell.faces[shell.face_components == component]
            reversed_part = Surface(Mesh(shell.vertices, np.ascontiguousarray(faces[:, ::-1])))
            if reversed_part.is_closed and reversed_part.volume > 0.0:
                inner.append(reversed_part)
        return inner

    @property
    def is_closed(self) -> bool:
        """Whether the membrane has a lumen that lies within the tomogram."""
        return bool(self.lumen_surfaces)

    @cached_property
    def lumen_volume(self) -> float:
        """Volume of the lumen, Å³; 0 without one."""
        return sum(surface.volume for surface in self.lumen_surfaces)

    def in_lumen(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points lie in the lumen.

        Parameters
        ----------
        points : (N, 3) float64 array
            xyz in Å, finite.

        Returns
        -------
        (N,) bool array
            False for all where the membrane is open.
        """
        inside = np.zeros(len(points), bool)
        candidates = np.flatnonzero(self.box_distances(points) == 0.0)
        for surface in self.lumen_surfaces if len(candidates) else ():
            inside[candidates] |= sides_of(surface, points[candidates]) < 0
        return inside

    def in_slab(self, points: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Return which points lie between the membrane's two surfaces.

        Parameters
        ----------
        points : (N, 3) float64 array
            xyz in Å, finite.

        Returns
        -------
        (N,) bool array or None
            None where the mesh is one surface, or its shell is not closed.
        """
        if not self.is_shell or not self.membrane.shell.is_closed:
            return None
        return sides_of(self.membrane.shell, points) < 0

    # ---------------------------------------------------------------- local properties

    @cached_property
    def leaflets(self) -> NDArray[np.int64] | None:
        """Leaflet of each face of the surface, (F,), 0 for the larger one; None where they are not told apart."""
        membrane = self.membrane
        if membrane.leaflets is not None or not self._inner_surfaces or membrane.touches_border:
            return membrane.leaflets
        components = membrane.shell.face_components
        parts = [
            Surface(Mesh(membrane.shell.vertices, membrane.shell.faces[components == k]))
            for k in range(components.max() + 1)
        ]
        inward = np.array([part.volume < 0.0 for part in parts])
        return inward[components].astype(np.int64)

    @cached_property
    def across(self) -> NDArray[np.float64]:
        """Distance from each face along its inward normal to the other side of the shell, (F,) Å; NaN: unknown."""
        if not self.is_shell:
            return np.full(len(self.surface.faces), np.nan)
        return np.where(np.isfinite(self._gaps.across), self._gaps.across, np.nan)

    @cached_property
    def _gaps(self) -> Gaps:
        return find_gaps({0: self.surface.mesh}, reach_angstrom=THICKEST_ANGSTROM)[0]

    @cached_property
    def _median_across(self) -> float:
        known = self.across[np.isfinite(self.across)]
        return float(np.median(known)) if len(known) else 0.0

    @cached_property
    def bilayer_at_faces(self) -> NDArray[np.float64] | None:
        """Bilayer thickness about each face, (F,) Å; None where it is not measured."""
        density = None if self.density_about is None else self.density_about(self.membrane.shell.mesh)
        if density is None:
            return None
        bilayer = replace(self.membrane, density=density, gaps=self._gaps).bilayer
        return None if bilayer is None else bilayer.at_faces

    @cached_property
    def to_edge(self) -> NDArray[np.float64]:
        """Distance of each vertex along the surface to its end, (V,) Å; infinity where there is none."""
        return self.surface.distance_from_any(self.surface.boundary_points(EDGE_POINTS))

    def depths(
        self, points: NDArray[np.float64], at: SurfacePoints, normals: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the depth of points along the membrane's normal.

        Parameters
        ----------
        points : (N, 3) float64 array
            xyz in Å.
        at : SurfacePoints
            Their nearest points.
        normals : (N, 3) float64 array
            Outward unit normals of the mesh there.

        Returns
        -------
        (N,) float64 array
            Å from midway between the leaflets, above 0 on the larger leaflet's side; from the mesh of one surface.
        """
        heights = np.asarray(((points - at.positions) * normals).sum(axis=1))
        if not self.is_shell:
            return heights
        across = self.across[at.faces]
        heights = heights + np.where(np.isfinite(across), across, self._median_across) / 2.0
        return heights if self.leaflets is None else np.where(self.leaflets[at.faces] == 1, -heights, heights)

"""What is counted and measured on a membrane: rows of the tables, without their key columns.

To add a statistic: write a function from `Measured` to rows, name its columns in `columns.TABLES` and add a line to
STATISTICS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.geometry import FloatArray, Grid, Mesh, Picks
from membrain_cloud.membranes.columns import MEMBRANE_KEYS, TABLES, TOMOGRAM_KEYS, Column
from membrain_cloud.membranes.curvature import curvature
from membrain_cloud.membranes.histograms import PROPERTIES, face_values, point_values
from membrain_cloud.membranes.leaflets import split_leaflets
from membrain_cloud.membranes.pairs import Pairs, Ripley, count_pairs, in_plane_angle_degrees, ripley_from_pair_counts
from membrain_cloud.membranes.simulation import simulate_pair_counts
from membrain_cloud.membranes.surface import Surface, SurfacePoints

__all__ = [
    "MEMBRANE_KEYS",
    "STATISTICS",
    "TABLES",
    "TOMOGRAM_KEYS",
    "Column",
    "Measured",
    "Ripley",
    "measure_membrane",
    "relion_angles",
    "ripley_from_pair_counts",
    "tomogram_row",
]

Row = dict[str, Any]
NM = 10.0  # Å
# Rings of neighbours that a vertex's curvature is fitted to.
CURVATURE_RINGS = 2
# An inner surface of a vesicle has at least this share of the outer one's area; smaller ones are holes in the slab.
LEAST_INNER_SHARE = 0.2
# Points of a boundary edge from which distances to it are measured.
EDGE_POINTS = 2
# Of the simulations. A constant: the same input gives the same tables.
SEED = 20240801


@dataclass(frozen=True, eq=False)
class Measured:
    """A membrane and its particles, with what several statistics need; each part is computed when first asked for.

    shell : the closed surface around the membrane.  surface : the same without the caps at the tomogram's border, where
    particles are placed and distances are measured.  order : (N,) the particles' places in the caller's list; here they
    are sorted by position, so that no sum depends on the caller's order.  leaflets : (F,) of the surface's faces, 0 for
    the larger one; None where the shell has no two, or they are not told apart. The surface is cut between them.
    """

    shell: Surface
    surface: Surface
    leaflets: NDArray[np.int64] | None
    grid: Grid
    picks: Picks | None
    order: NDArray[np.int64]
    names: tuple[str, ...]
    touches_border: bool
    cutoff_angstrom: float
    bin_width_angstrom: float
    edge_width_angstrom: float
    n_neighbors: int
    n_simulations: int

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
    def kind_names(self) -> list[str]:
        return sorted(set(self.names))

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
    def components(self) -> NDArray[np.int64]:
        """(N,) component of the surface each particle is on."""
        return self.surface.face_components[self.at.faces]

    @cached_property
    def component_areas(self) -> NDArray[np.float64]:
        """(C,) Å²."""
        return np.bincount(self.surface.face_components, self.surface.face_areas).astype(np.float64)

    @cached_property
    def curvatures(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (1/Å) and Gaussian (1/Å²) curvature of the surface's vertices."""
        return curvature(self.surface, rings=CURVATURE_RINGS)

    @cached_property
    def to_edge(self) -> NDArray[np.float64]:
        """(V,) Å along the surface to where the border or a rim ends it; inf beyond reach, and without such ends."""
        return self.surface.distance_from_any(
            self.surface.boundary_points(EDGE_POINTS),
            cutoff_angstrom=max(self.cutoff_angstrom, self.edge_width_angstrom),
        )

    @cached_property
    def is_edge(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.minimum(self.pairs.to_boundary, self.pairs.to_seam) <= self.edge_width_angstrom

    @cached_property
    def one_sided_area_nm2(self) -> float | None:
        """None where only border caps are left of the membrane."""
        only_caps = self.touches_border and len(self.surface.faces) == len(self.shell.faces)
        return None if only_caps else float(self.surface.face_areas.sum()) / 2.0 / NM**2

    @cached_property
    def pairs(self) -> Pairs:
        return count_pairs(
            self.surface,
            self.at,
            self.kinds,
            cutoff_angstrom=self.cutoff_angstrom,
            bin_width_angstrom=self.bin_width_angstrom,
            boundary_cutoff_angstrom=self.edge_width_angstrom,
            n_neighbors=self.n_neighbors,
        )


def membrane_rows(measured: Measured) -> list[Row]:
    """One row: the membrane itself."""
    shell, area = measured.shell, measured.one_sided_area_nm2
    used = shell.vertices[np.unique(shell.faces)]
    volume = shell.volume / NM**3 if shell.is_closed else None
    lumen = None if measured.touches_border else _lumen_nm3(shell)
    count = None if measured.picks is None else len(measured.positions)
    inner_area, inner_count = _without_edges(measured)
    low, high = used.min(axis=0).tolist(), used.max(axis=0).tolist()
    return [
        {
            "n_vertices": len(used),
            "n_faces": len(shell.faces),
            "n_components": measured.surface.n_components,
            "shell_area_nm2": float(shell.face_areas.sum()) / NM**2,
            "one_sided_area_nm2": area,
            **_leaflet_areas(measured),
            "area_without_edges_nm2": inner_area,
            "is_closed": lumen is not None,
            "touches_border": measured.touches_border,
            "euler_characteristic": shell.euler_characteristic,
            "volume_nm3": volume,
            "lumen_volume_nm3": lumen,
            "thickness_nm": volume / area if volume is not None and area else None,
            **{f"box_min_{axis}_angstrom": value for axis, value in zip("xyz", low, strict=True)},
            **{f"box_max_{axis}_angstrom": value for axis, value in zip("xyz", high, strict=True)},
            **_curvature_shares(measured),
            "n_particles": count,
            "particles_per_um2": count / area * 1e6 if count is not None and area else None,
            "n_particles_without_edges": inner_count,
        }
    ]


def _leaflet_areas(measured: Measured) -> dict[str, float | None]:
    """Without border caps."""
    if measured.leaflets is None:
        return {"outer_leaflet_area_nm2": None, "inner_leaflet_area_nm2": None}
    areas = np.bincount(measured.leaflets, measured.surface.face_areas, minlength=2) / NM**2
    return {"outer_leaflet_area_nm2": float(areas[0]), "inner_leaflet_area_nm2": float(areas[1])}


def _without_edges(measured: Measured) -> tuple[float | None, int | None]:
    """One-sided area (nm²) and particles farther than the edge width from the surface's ends."""
    if measured.one_sided_area_nm2 is None:
        return None, None
    inner = measured.to_edge[measured.surface.faces].mean(axis=1) > measured.edge_width_angstrom
    area = float(measured.surface.face_areas[inner].sum()) / 2.0 / NM**2
    if measured.picks is None:
        return area, None
    return area, int((~measured.is_edge).sum()) if len(measured.positions) else 0


def _lumen_nm3(shell: Surface) -> float | None:
    """Volume within the inner surfaces of a vesicle's shell: those whose outward normals point to its middle."""
    areas = np.bincount(shell.face_components, shell.face_areas)
    inner = 0.0
    for component in np.flatnonzero(areas >= LEAST_INNER_SHARE * areas.max()):
        part = Surface(Mesh(shell.vertices, shell.faces[shell.face_components == component]))
        inner += max(-part.volume, 0.0) if part.is_closed else 0.0
    return inner / NM**3 if inner > 0.0 else None


def _curvature_shares(measured: Measured) -> dict[str, float | None]:
    mean, areas = measured.curvatures[0] * NM, measured.surface.vertex_areas
    found = {
        f"mean_curvature_p{percent:02d}_per_nm": _weighted_quantile(mean, areas, percent / 100)
        for percent in (5, 25, 50, 75, 95)
    }
    return {**found, "abs_mean_curvature_p50_per_nm": _weighted_quantile(np.abs(mean), areas, 0.5)}


def _weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float | None:
    """The value below which `share` of the weight lies; each value stands in the middle of its own weight."""
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return None
    order = np.argsort(values[known], kind="stable")
    sorted_values, sorted_weights = values[known][order], weights[known][order]
    position = np.cumsum(sorted_weights) - 0.5 * sorted_weights
    return float(np.interp(share * sorted_weights.sum(), position, sorted_values))


def particle_rows(measured: Measured) -> list[Row]:
    """A row a particle, in the caller's order."""
    if not len(measured.positions) or measured.picks is None:
        return []
    surface, at = measured.surface, measured.at
    normals = _normals_at(surface, at)
    columns: dict[str, Sequence[Any]] = {
        "particle_id": measured.order.tolist(),
        "object_name": measured.names,
        "component_id": measured.components.tolist(),
        "leaflet": [None] * len(at) if measured.leaflets is None else measured.leaflets[at.faces].tolist(),
        **_xyz("{}_angstrom", measured.positions),
        **_angle_columns(measured.orientations, len(at)),
        "score": _known(np.asarray(measured.picks.scores, np.float64)[measured.order]),
        "distance_to_surface_nm": _known(at.distances / NM),
        **_xyz("normal_{}", normals),
        "mean_curvature_per_nm": _known(surface.interpolate(measured.curvatures[0], at) * NM),
        "gaussian_curvature_per_nm2": _known(surface.interpolate(measured.curvatures[1], at) * NM**2),
        **{
            name: _known(point_values(name, surface, measured.curvatures, at))
            for name in ("largest_curvature_per_nm", "least_curvature_per_nm", "shape_index", "curvedness_per_nm")
        },
        "distance_to_boundary_nm": _known(measured.pairs.to_boundary / NM),
        "distance_to_rim_nm": _known(measured.pairs.to_seam / NM),
        "distance_to_border_nm": _known(_border_distances(measured.positions, measured.grid) / NM),
        "is_edge": measured.is_edge.tolist(),
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return sorted(rows, key=lambda row: row["particle_id"])


def neighbor_rows(measured: Measured) -> list[Row]:
    """The nearest particles of each kind along the surface; no row where there is none within the cut-off."""
    rows: list[Row] = []
    if not len(measured.positions):
        return rows
    for neighbor in measured.pairs.neighbors:
        one, other = neighbor.source, neighbor.target
        angle = None
        if measured.orientations is not None:
            angle = in_plane_angle_degrees(measured.orientations[one], measured.orientations[other])
        rows.append(
            {
                "particle_id": int(measured.order[one]),
                "object_name": measured.names[one],
                "component_id": int(measured.components[one]),
                "target_object_name": measured.kind_names[neighbor.target_kind],
                "rank": neighbor.rank,
                "target_id": int(measured.order[other]),
                "geodesic_nm": neighbor.distance / NM,
                "euclidean_nm": float(np.linalg.norm(measured.positions[one] - measured.positions[other])) / NM,
                "in_plane_angle_degrees": angle,
            }
        )
    return sorted(rows, key=lambda row: (row["particle_id"], row["target_object_name"], row["rank"]))


def pair_count_rows(measured: Measured) -> list[Row]:
    """A row a component, pair of kinds and bin; none where there is no particle to count about another."""
    rows: list[Row] = []
    if not len(measured.positions):
        return rows
    pairs, edges = measured.pairs, measured.pairs.edges / NM
    populations = np.zeros(pairs.counts.shape[:2], np.int64)
    np.add.at(populations, (measured.components, measured.kinds), 1)
    for component, one, other in np.ndindex(pairs.counts.shape[:3]):
        n_start, n_target = int(populations[component, one]), int(populations[component, other])
        others = n_target - (one == other)
        if n_start == 0 or others <= 0:
            continue
        area = float(measured.component_areas[component]) / NM**2
        area_sums = pairs.areas[component, one] / NM**2
        for number in range(len(edges) - 1):
            rows.append(
                {
                    "component_id": component,
                    "object_name": measured.kind_names[one],
                    "target_object_name": measured.kind_names[other],
                    "bin": number,
                    "r_min_nm": float(edges[number]),
                    "r_max_nm": float(edges[number + 1]),
                    "n_pairs": int(pairs.counts[component, one, other, number]),
                    "area_sum_nm2": float(area_sums[number]),
                    "expected_pairs": float(area_sums[number]) * others / area,
                    "n_start": n_start,
                    "n_target": n_target,
                    "area_nm2": area,
                }
            )
    return rows


def random_pair_count_rows(measured: Measured) -> list[Row]:
    """Pairs of particles at random on the same surface: a row a component, pair of kinds, simulation and bin."""
    if not len(measured.positions) or not measured.n_simulations:
        return []
    counts = simulate_pair_counts(
        measured.surface,
        measured.at,
        measured.kinds,
        edges_angstrom=measured.pairs.edges,
        n_simulations=measured.n_simulations,
        seed=SEED,
    )
    names = measured.kind_names
    return [
        {
            "component_id": component,
            "object_name": names[one],
            "target_object_name": names[other],
            "simulation": simulation,
            "bin": number,
            "n_pairs": int(counts[component, one, other, simulation, number]),
        }
        for component, one, other, simulation, number in np.argwhere(counts > 0).tolist()
    ]


def histogram_rows(measured: Measured) -> list[Row]:
    """Area and particles in bins of local properties: a row a leaflet, property and bin that has area."""
    if measured.one_sided_area_nm2 is None:
        return []
    surface, rows = measured.surface, []
    leaflets = np.zeros(len(surface.faces), np.int64) if measured.leaflets is None else measured.leaflets
    for scale in PROPERTIES:
        at_faces = face_values(scale.name, surface, measured.curvatures, measured.to_edge)
        for leaflet in np.unique(leaflets):
            here = leaflets == leaflet
            areas = scale.histogram(at_faces[here], surface.face_areas[here]) / NM**2
            for number in np.flatnonzero(areas > 0.0).tolist():
                rows.append(
                    {
                        "leaflet": None if measured.leaflets is None else int(leaflet),
                        **scale.bin_row(number),
                        "area_nm2": float(areas[number]),
                    }
                )
    return rows


def particle_histogram_rows(measured: Measured) -> list[Row]:
    """Particles in the bins of `membrane_histograms`: a row a kind, leaflet, property and bin that has particles."""
    rows: list[Row] = []
    if not len(measured.positions):
        return rows
    faces = measured.at.faces
    leaflets = np.zeros(len(faces), np.int64) if measured.leaflets is None else measured.leaflets[faces]
    for scale in PROPERTIES:
        values = face_values(scale.name, measured.surface, measured.curvatures, measured.to_edge)[faces]
        for kind, leaflet in np.argwhere(np.ones((len(measured.kind_names), 2), bool)).tolist():
            counts = scale.histogram(values[(measured.kinds == kind) & (leaflets == leaflet)], None)
            for number in np.flatnonzero(counts).tolist():
                rows.append(
                    {
                        "object_name": measured.kind_names[kind],
                        "leaflet": None if measured.leaflets is None else leaflet,
                        **scale.bin_row(number),
                        "n_particles": int(counts[number]),
                    }
                )
    return rows


STATISTICS: dict[str, Callable[[Measured], list[Row]]] = {
    "membranes": membrane_rows,
    "particles": particle_rows,
    "neighbors": neighbor_rows,
    "pair_counts": pair_count_rows,
    "random_pair_counts": random_pair_count_rows,
    "membrane_histograms": histogram_rows,
    "particle_histograms": particle_histogram_rows,
}


def measure_membrane(
    mesh: Mesh,
    picks: Picks | None,
    *,
    grid: Grid,
    border_vertices: NDArray[np.bool_],
    object_names: str | Sequence[str],
    cutoff_nm: float,
    bin_width_nm: float,
    n_neighbors: int,
    edge_width_nm: float,
    leaflets_apart: bool,
    n_simulations: int,
) -> dict[str, list[Row]]:
    """All statistics of one membrane: table -> rows, without the key columns, which the caller knows.

    Parameters
    ----------
    mesh : the closed shell around the membrane.
    picks : the particles of this membrane; None: none were asked for (their number is then unknown, not 0).
    grid : of the tomogram.
    border_vertices : (V,) the vertices that close the shell at the tomogram's border. Faces of three such vertices are
        no membrane: they are left out of areas, and no distance leads over them.
    object_names : what the particles are, one name for all or (N,).
    cutoff_nm, bin_width_nm : reach and resolution of neighbours and pair counts, along the surface.
    n_neighbors : ranks of neighbours, for each kind of particle.
    edge_width_nm : `is_edge` particles lie so near to where the border or a rim ends the membrane.
    leaflets_apart : cut the shell in its two leaflets, so that no distance leads around a rim from one to the other.
    n_simulations : of particles at random, for envelopes and p-values.

    Particles are placed at the nearest point of the surface, oriented ones on the leaflet that they look out of.
    Raises ValueError for a mesh without faces, positions that are not finite, or arguments whose lengths do not agree.
    """
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be measured")
    # Faces that name a vertex twice bear no area and no particle, and part the surface.
    mesh = Mesh(mesh.vertices, mesh.faces[(mesh.faces != np.roll(mesh.faces, 1, axis=1)).all(axis=1)])
    if not np.isfinite(mesh.vertices[np.unique(mesh.faces)]).all():
        raise ValueError("a mesh with vertices that are not finite cannot be measured")
    if len(border_vertices) != len(mesh.vertices):
        raise ValueError(f"{len(border_vertices)} border flags for {len(mesh.vertices)} vertices")
    positions = np.zeros((0, 3)) if picks is None else np.asarray(picks.positions, np.float64)
    names = [object_names] * len(positions) if isinstance(object_names, str) else list(object_names)
    if len(names) != len(positions):
        raise ValueError(f"{len(names)} object names for {len(positions)} particles")
    order = np.lexsort((names, *positions.T[::-1])) if len(positions) else np.zeros(0, np.int64)
    caps = np.asarray(np.asarray(border_vertices, bool)[mesh.faces].all(axis=1))
    shell = Surface(mesh)
    groups = split_leaflets(shell) if leaflets_apart else None
    # All caps: nothing better than the caps is there to place particles on.
    kept = np.logical_not(caps) if not caps.all() else np.full(caps.shape, True)
    leaflets = None if groups is None else groups[kept]
    surface = shell if groups is None and kept.all() else Surface(Mesh(mesh.vertices, mesh.faces[kept]), leaflets)
    measured = Measured(
        shell=shell,
        surface=surface,
        leaflets=leaflets,
        grid=grid,
        picks=picks,
        order=order,
        names=tuple(names[i] for i in order),
        touches_border=bool(caps.any()),
        cutoff_angstrom=cutoff_nm * NM,
        bin_width_angstrom=bin_width_nm * NM,
        edge_width_angstrom=edge_width_nm * NM,
        n_neighbors=n_neighbors,
        n_simulations=n_simulations,
    )
    return {table: statistic(measured) for table, statistic in STATISTICS.items()}


def _on_facing_leaflet(
    surface: Surface,
    leaflets: NDArray[np.int64],
    nearest: SurfacePoints,
    positions: NDArray[np.float64],
    axes: NDArray[np.float64],
) -> SurfacePoints:
    """`nearest`, but on the other leaflet where only that one's normal goes with the particle's z axis."""
    facing = (_normals_at(surface, nearest) * axes).sum(axis=1)
    faces, weights = nearest.faces.copy(), nearest.weights.copy()
    for leaflet in range(2):
        numbers = np.flatnonzero(leaflets == leaflet)
        wrong = np.flatnonzero((leaflets[nearest.faces] != leaflet) & (facing < 0.0))
        if not len(wrong) or not len(numbers):
            continue
        found = Surface(Mesh(surface.vertices, surface.faces[numbers])).closest_points(positions[wrong])
        found = surface.points(numbers[found.faces], found.weights)
        better = (_normals_at(surface, found) * axes[wrong]).sum(axis=1) > 0.0
        faces[wrong[better]], weights[wrong[better]] = found.faces[better], found.weights[better]
    placed = surface.points(faces, weights)
    return SurfacePoints(faces, weights, placed.positions, np.linalg.norm(placed.positions - positions, axis=1))


def _normals_at(surface: Surface, at: SurfacePoints) -> NDArray[np.float64]:
    normals = surface.interpolate(surface.normals, at)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def tomogram_row(
    grid: Grid,
    *,
    n_membranes: int,
    n_particles: int | None,
    mesh_uri: str | None,
    picks_uri: str | None,
    package_version: str,
    data_version: str,
) -> Row:
    """The row of `tomograms`, without key columns. Nothing volatile: equal runs give equal tables."""
    return {
        "shape_z": grid.shape[0],
        "shape_y": grid.shape[1],
        "shape_x": grid.shape[2],
        "volume_um3": grid.voxels * (grid.voxel_spacing_angstrom * 1e-4) ** 3,
        "n_membranes": n_membranes,
        "n_particles": n_particles,
        "mesh_uri": mesh_uri,
        "picks_uri": picks_uri,
        "package_version": package_version,
        "data_version": data_version,
    }


def relion_angles(orientations: FloatArray) -> NDArray[np.float64]:
    """(N, 3, 3) rotations, particle's frame to tomogram's -> (N, 3) rot, tilt, psi in degrees.

    Intrinsic ZYZ angles of the inverse rotation, as RELION has them: Rz(rot) Ry(tilt) Rz(psi) takes the tomogram's
    frame to the particle's. Where tilt is 0 or 180, only one of rot and psi is defined, and rot is 0.
    """
    inverse = np.swapaxes(np.asarray(orientations, np.float64), 1, 2)
    sine = np.hypot(inverse[:, 0, 2], inverse[:, 1, 2])
    tilt = np.arctan2(sine, inverse[:, 2, 2])
    upright = sine < 1e-9
    rot = np.where(upright, 0.0, np.arctan2(inverse[:, 1, 2], inverse[:, 0, 2]))
    psi = np.where(
        upright,
        np.arctan2(inverse[:, 1, 0], inverse[:, 1, 1]),
        np.arctan2(inverse[:, 2, 1], -inverse[:, 2, 0]),
    )
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def _angle_columns(orientations: NDArray[np.float64] | None, count: int) -> dict[str, list[float | None]]:
    names = ("rot_degrees", "tilt_degrees", "psi_degrees")
    if orientations is None:
        return {name: [None] * count for name in names}
    return {name: _known(values) for name, values in zip(names, relion_angles(orientations).T, strict=True)}


def _border_distances(positions: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """(N,) Å to the nearest outer face of the volume, which reaches half a voxel beyond its outer voxels' centres."""
    inside = positions + grid.voxel_spacing_angstrom / 2.0
    return np.maximum(np.minimum(inside, np.array(grid.size_angstrom) - inside).min(axis=1), 0.0)


def _xyz(pattern: str, values: NDArray[np.float64]) -> dict[str, list[float | None]]:
    return {pattern.format(axis): _known(values[:, k]) for k, axis in enumerate("xyz")}


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]

"""Rows about particles: where each lies, its nearest neighbours, and both in bins of the surface's properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.rotations import relion_angles
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.schema.particles import PARTICLES
from membrain_cloud.statistics.schema.row import Row, known
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid
    from membrain_cloud.statistics.membrane.surface_properties import Values
    from membrain_cloud.statistics.model.measured_membrane import Measured
    from membrain_cloud.statistics.schema.column import Column


def particle_rows(measured: Measured) -> list[Row]:
    """A row a particle, in the caller's order; little is known of those whose position is not finite."""
    if measured.picks is None:
        return []
    rows = _unplaced(measured)
    columns = _placed(measured) if len(measured.order) else {}
    rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return sorted(rows, key=lambda row: row["particle_id"])


def _placed(measured: Measured) -> dict[str, Sequence[Any]]:
    surface, at, picks = measured.surface, measured.at, measured.picks
    assert picks is not None
    mean, gauss = (surface.interpolate(values, at) for values in measured.curvatures)
    gaps, bilayer, lamella = measured.gaps, measured.bilayer, measured.lamella
    unknown = np.full(len(at), np.nan)
    depths = unknown if lamella is None else lamella.depths(measured.positions)
    return {
        "particle_id": measured.order.tolist(),
        "object_name": measured.names,
        "component_id": measured.components.tolist(),
        "leaflet": [None] * len(at) if measured.leaflets is None else measured.leaflets[at.faces].tolist(),
        **_xyz("{}_angstrom", measured.positions),
        **_angle_columns(measured.orientations, len(at)),
        "score": known(np.asarray(picks.scores, np.float64)[measured.order]),
        "distance_to_surface_nm": known(at.distances / ANGSTROM_PER_NM),
        **_xyz("normal_{}", measured.normals),
        **{
            name: known(properties.of_curvatures(name, mean, gauss))
            for name in (
                "mean_curvature_per_nm", "gaussian_curvature_per_nm2", "largest_curvature_per_nm",
                "least_curvature_per_nm", "shape_index", "curvedness_per_nm",
            )
        },
        "verticality": known(properties.verticality(surface)[at.faces]),
        "bilayer_thickness_nm": known(unknown if bilayer is None else bilayer.at_faces[at.faces] / ANGSTROM_PER_NM),
        "distance_to_boundary_nm": known(measured.pairs.to_boundary / ANGSTROM_PER_NM),
        "distance_to_rim_nm": known(measured.pairs.to_seam / ANGSTROM_PER_NM),
        "distance_to_border_nm": known(_border_distances(measured.positions, measured.grid) / ANGSTROM_PER_NM),
        "distance_to_lamella_nm": known(depths / ANGSTROM_PER_NM),
        "distance_to_next_membrane_nm": known(unknown if gaps is None else gaps.to_next[at.faces] / ANGSTROM_PER_NM),
        "is_edge": measured.is_edge.tolist(),
    }  # fmt: skip


def _unplaced(measured: Measured) -> list[Row]:
    picks = measured.picks
    assert picks is not None
    absent = sorted(set(range(len(picks.positions))) - set(measured.order.tolist()))
    scores = known(np.asarray(picks.scores, np.float64)[absent]) if absent else []
    columns: tuple[Column, ...] = PARTICLES
    return [
        {column.name: None for column in columns}
        | {"particle_id": number, "object_name": measured.all_names[number], "score": score}
        for number, score in zip(absent, scores, strict=True)
    ]


def neighbor_rows(measured: Measured) -> list[Row]:
    """The nearest particles of each kind along the surface; no row where there is none within the cut-off."""
    if not len(measured.order):
        return []
    found = measured.pairs.neighbors
    listed = found.ranks <= measured.options.n_neighbors
    one, other = found.sources[listed], found.targets[listed]
    apart = np.linalg.norm(measured.positions[one] - measured.positions[other], axis=1) / ANGSTROM_PER_NM
    rows = [
        {
            "particle_id": int(measured.order[i]),
            "object_name": measured.names[i],
            "component_id": int(measured.components[i]),
            "target_object_name": measured.kind_names[kind],
            "rank": rank,
            "target_id": int(measured.order[j]),
            "geodesic_nm": distance / ANGSTROM_PER_NM,
            "euclidean_nm": euclidean,
            "in_plane_angle_degrees": angle,
        }
        for i, j, kind, rank, distance, euclidean, angle in zip(
            one.tolist(),
            other.tolist(),
            found.kinds[listed].tolist(),
            found.ranks[listed].tolist(),
            found.distances[listed].tolist(),
            apart.tolist(),
            known(measured.angles_between(one, other)),
            strict=True,
        )
    ]
    return sorted(rows, key=lambda row: (row["particle_id"], row["target_object_name"], row["rank"]))


def particle_histogram_rows(measured: Measured) -> list[Row]:
    """Particles in the bins of `membrane_histograms`: a row a kind, leaflet, property and bin that has particles."""
    return [{**row, "n_particles": len(members)} for row, _, members in _binned(measured)]


def binned_neighbor_rows(measured: Measured) -> list[Row]:
    """Distances to the nearest particle of each kind, by the bins that the particles themselves are in."""
    rows: list[Row] = []
    if not len(measured.order):
        return rows
    nearest = [
        measured.pairs.neighbors.nearest(kind, len(measured.order)) / ANGSTROM_PER_NM
        for kind in range(len(measured.kind_names))
    ]
    for row, of_class, members in _binned(measured):
        for kind, target in enumerate(measured.kind_names):
            if kind == of_class:  # its distance is what the particles are binned by
                continue
            distances = nearest[kind][members]
            distances = distances[np.isfinite(distances)]
            rows.append(
                {
                    "object_name": row["object_name"],
                    "target_object_name": target,
                    **{name: value for name, value in row.items() if name != "object_name"},
                    "n_particles": len(members),
                    "n_found": len(distances),
                    "distance_sum_nm": float(distances.sum()),
                    "distance_square_sum_nm2": float((distances**2).sum()),
                }
            )
    return rows


def _binned(measured: Measured) -> Iterator[tuple[Row, int | None, NDArray[np.int64]]]:
    """Each bin that has particles: its row, the class that distances are to, its particles."""
    if not len(measured.order) or measured.one_sided_area_nm2 is None:
        return
    leaflets = measured.face_leaflets[measured.at.faces]
    for found in measured.properties:
        numbers = found.scale.numbers(found.at_particles)
        for kind, leaflet, number in _groups(measured, found, leaflets, numbers):
            members = np.flatnonzero((measured.kinds == kind) & (leaflets == leaflet) & (numbers == number))
            row = {
                "object_name": measured.kind_names[kind],
                "leaflet": None if measured.leaflets is None else leaflet,
                **found.scale.bin_row(number),
            }
            yield row, found.of_class, members


def _groups(
    measured: Measured, found: Values, leaflets: NDArray[np.int64], numbers: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """(kind, leaflet, bin) that occur; a class is not binned by the distance to itself."""
    here = (numbers >= 0) & (measured.kinds != (-1 if found.of_class is None else found.of_class))
    groups = np.unique(np.stack([measured.kinds, leaflets, numbers], axis=1)[here], axis=0)
    return [(kind, leaflet, number) for kind, leaflet, number in groups.tolist()]


def _angle_columns(orientations: NDArray[np.float64] | None, count: int) -> dict[str, list[float | None]]:
    names = ("rot_degrees", "tilt_degrees", "psi_degrees")
    if orientations is None:
        return {name: [None] * count for name in names}
    return {name: known(values) for name, values in zip(names, relion_angles(orientations).T, strict=True)}


def _border_distances(positions: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """(N,) Å to the nearest outer face of the volume, which reaches half a voxel beyond its outer voxels' centres."""
    inside = positions + grid.voxel_spacing_angstrom / 2.0
    return np.maximum(np.minimum(inside, np.array(grid.size_angstrom) - inside).min(axis=1), 0.0)


def _xyz(pattern: str, values: NDArray[np.float64]) -> dict[str, list[float | None]]:
    return {pattern.format(axis): known(values[:, k]) for k, axis in enumerate("xyz")}

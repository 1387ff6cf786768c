"""Rows about particles: `particles`, `neighbors`, `particle_histograms` and `binned_neighbors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.rotations import relion_angles
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.schema.column import Row, finite_or_none
from membrain_cloud.statistics.schema.particles import PARTICLES
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid
    from membrain_cloud.statistics.membrane.surface_properties import Values
    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane


def particle_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `particles`: place, orientation and surroundings of each particle.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a particle, in the caller's order. A particle without a finite position has its name and score alone.
    """
    if membrane.picks is None:
        return []
    rows = _unplaced(membrane, membrane.picks.scores)
    columns = _placed(membrane, membrane.picks.scores) if len(membrane.order) else {}
    rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return sorted(rows, key=lambda row: row["particle_id"])


def _placed(membrane: MeasuredMembrane, scores: NDArray[np.floating]) -> dict[str, Sequence[Any]]:
    """Return the columns of the particles with finite positions, N values each."""
    surface, at = membrane.surface, membrane.at
    mean, gauss = (surface.interpolate(values, at) for values in membrane.curvatures)
    gaps, bilayer, lamella = membrane.gaps, membrane.bilayer, membrane.lamella
    unknown = np.full(len(at), np.nan)
    depths = unknown if lamella is None else lamella.depths(membrane.positions)
    thickness = unknown if bilayer is None else bilayer.at_faces[at.faces]
    to_next = unknown if gaps is None else gaps.to_next[at.faces]
    to_border = _border_distances(membrane.positions, membrane.grid)
    return {
        "particle_id": membrane.order.tolist(),
        "object_name": membrane.names,
        "component_id": membrane.components.tolist(),
        "leaflet": [None] * len(at) if membrane.leaflets is None else membrane.leaflets[at.faces].tolist(),
        **_xyz("{}_angstrom", membrane.positions),
        **_angle_columns(membrane.orientations, len(at)),
        "score": finite_or_none(np.asarray(scores, np.float64)[membrane.order]),
        "distance_to_surface_nm": finite_or_none(at.distances / ANGSTROM_PER_NM),
        **_xyz("normal_{}", membrane.normals),
        **{
            name: finite_or_none(properties.of_curvatures(name, mean, gauss))
            for name in (
                "mean_curvature_per_nm", "gaussian_curvature_per_nm2", "largest_curvature_per_nm",
                "least_curvature_per_nm", "shape_index", "curvedness_per_nm",
            )
        },
        "verticality": finite_or_none(properties.verticality(surface)[at.faces]),
        "bilayer_thickness_nm": finite_or_none(thickness / ANGSTROM_PER_NM),
        "distance_to_boundary_nm": finite_or_none(membrane.pairs.to_boundary / ANGSTROM_PER_NM),
        "distance_to_rim_nm": finite_or_none(membrane.pairs.to_seam / ANGSTROM_PER_NM),
        "distance_to_border_nm": finite_or_none(to_border / ANGSTROM_PER_NM),
        "distance_to_lamella_nm": finite_or_none(depths / ANGSTROM_PER_NM),
        "distance_to_next_membrane_nm": finite_or_none(to_next / ANGSTROM_PER_NM),
        "is_edge": membrane.is_edge.tolist(),
    }  # fmt: skip


def _unplaced(membrane: MeasuredMembrane, scores: NDArray[np.floating]) -> list[Row]:
    """Return the rows of particles without a finite position."""
    absent = sorted(set(range(len(membrane.all_names))) - set(membrane.order.tolist()))
    their_scores = finite_or_none(np.asarray(scores, np.float64)[absent]) if absent else []
    return [
        {column.name: None for column in PARTICLES}
        | {"particle_id": number, "object_name": membrane.all_names[number], "score": score}
        for number, score in zip(absent, their_scores, strict=True)
    ]


def neighbor_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `neighbors`: the nearest particles of each kind along the surface.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a particle, kind and rank; none for neighbours beyond the cut-off.
    """
    if not len(membrane.order):
        return []
    neighbors = membrane.pairs.neighbors
    listed = neighbors.ranks <= membrane.options.n_neighbors
    one, other = neighbors.sources[listed], neighbors.targets[listed]
    straight = np.linalg.norm(membrane.positions[one] - membrane.positions[other], axis=1) / ANGSTROM_PER_NM
    rows = [
        {
            "particle_id": int(membrane.order[i]),
            "object_name": membrane.names[i],
            "component_id": int(membrane.components[i]),
            "target_object_name": membrane.kind_names[kind],
            "rank": rank,
            "target_id": int(membrane.order[j]),
            "geodesic_nm": distance / ANGSTROM_PER_NM,
            "euclidean_nm": euclidean,
            "in_plane_angle_degrees": angle,
        }
        for i, j, kind, rank, distance, euclidean, angle in zip(
            one.tolist(),
            other.tolist(),
            neighbors.kinds[listed].tolist(),
            neighbors.ranks[listed].tolist(),
            neighbors.distances[listed].tolist(),
            straight.tolist(),
            finite_or_none(membrane.angles_between(one, other)),
            strict=True,
        )
    ]
    return sorted(rows, key=lambda row: (row["particle_id"], row["target_object_name"], row["rank"]))


def particle_histogram_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `particle_histograms`: particles in the bins of `membrane_histograms`.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a kind, leaflet, property and bin that has particles.
    """
    return [{**row, "n_particles": len(members)} for row, _, members in _binned(membrane)]


def binned_neighbor_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `binned_neighbors`: distances to the nearest neighbour, by the particle's bin.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a kind, leaflet, property, bin that has particles, and kind of neighbour.
    """
    rows: list[Row] = []
    if not len(membrane.order):
        return rows
    nearest = [
        membrane.pairs.neighbors.nearest(kind, len(membrane.order)) / ANGSTROM_PER_NM
        for kind in range(len(membrane.kind_names))
    ]
    for row, of_class, members in _binned(membrane):
        for kind, target in enumerate(membrane.kind_names):
            if kind == of_class:  # the bins are those of the distance to this kind
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


def _binned(membrane: MeasuredMembrane) -> Iterator[tuple[Row, int | None, NDArray[np.int64]]]:
    """Yield each bin that has particles: its columns, the class that distances are to, and its particles' numbers."""
    if not len(membrane.order) or membrane.one_sided_area_nm2 is None:
        return
    leaflets = membrane.face_leaflets[membrane.at.faces]
    for prop in membrane.properties:
        numbers = prop.scale.numbers(prop.at_particles)
        for kind, leaflet, number in _groups(membrane, prop, leaflets, numbers):
            members = np.flatnonzero((membrane.kinds == kind) & (leaflets == leaflet) & (numbers == number))
            row = {
                "object_name": membrane.kind_names[kind],
                "leaflet": None if membrane.leaflets is None else leaflet,
                **prop.scale.bin_row(number),
            }
            yield row, prop.of_class, members


def _groups(
    membrane: MeasuredMembrane, prop: Values, leaflets: NDArray[np.int64], numbers: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """Return the (kind, leaflet, bin) that occur; a class is not binned by the distance to itself."""
    here = (numbers >= 0) & (membrane.kinds != (-1 if prop.of_class is None else prop.of_class))
    groups = np.unique(np.stack([membrane.kinds, leaflets, numbers], axis=1)[here], axis=0)
    return [(kind, leaflet, number) for kind, leaflet, number in groups.tolist()]


def _angle_columns(orientations: NDArray[np.float64] | None, count: int) -> dict[str, list[float | None]]:
    """Return the columns of RELION's three angles; NULL where orientations are unknown."""
    names = ("rot_degrees", "tilt_degrees", "psi_degrees")
    if orientations is None:
        return {name: [None] * count for name in names}
    return {name: finite_or_none(values) for name, values in zip(names, relion_angles(orientations).T, strict=True)}


def _border_distances(positions: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return the (N,) distances (Å) to the nearest face of the volume, 0 outside.

    The volume reaches half a voxel beyond the centres of its outer voxels.
    """
    inside = positions + grid.voxel_spacing_angstrom / 2.0
    to_nearest = np.minimum(inside, np.array(grid.size_angstrom) - inside).min(axis=1)
    return np.asarray(np.maximum(to_nearest, 0.0))


def _xyz(pattern: str, values: NDArray[np.float64]) -> dict[str, list[float | None]]:
    """Return the columns of x, y and z of (N, 3) values."""
    return {pattern.format(axis): finite_or_none(values[:, k]) for k, axis in enumerate("xyz")}

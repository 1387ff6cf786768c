"""Rows of `particle_context`: for any particle the nearest membranes, its side, its depth, and what is local there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.statistics.context.surroundings import Surroundings
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.model.placement import normals_at
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.schema.column import Row, finite_or_none
from membrain_cloud.statistics.schema.context import PARTICLE_CONTEXT, PLACED_COLUMNS
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks
    from membrain_cloud.mesh.surface import SurfacePoints
    from membrain_cloud.statistics.membrane.bilayer_thickness import Density
    from membrain_cloud.statistics.model.options import Options

MEASURED, NO_MEMBRANE, OUTSIDE, NO_POSITION = "measured", "no_membrane", "outside", "no_position"
STATES = (MEASURED, NO_MEMBRANE, OUTSIDE, NO_POSITION)
"""Values of the column `status`."""

_MEASURE_ERRORS = (ValueError, ArithmeticError, np.linalg.LinAlgError)
_CURVATURES = tuple(scale.name for scale in properties.CURVATURES)


@dataclass(frozen=True, eq=False)
class MembranesAround:
    """The membranes of one tomogram, prepared for any number of lists of particles.

    Parameters
    ----------
    membranes : mapping of int to Surroundings
        Number of each membrane -> the membrane.
    failed : mapping of int to str
        Number of each membrane that cannot be measured -> why.
    """

    membranes: Mapping[int, Surroundings]
    failed: Mapping[int, str]


def membranes_around(
    meshes: Mapping[int, Membrane],
    *,
    grid: Grid,
    options: Options,
    density_about: Callable[[Mesh], Density | None] | None = None,
) -> MembranesAround:
    """Prepare the membranes of a tomogram.

    Parameters
    ----------
    meshes : mapping of int to Membrane
        Number of each membrane -> its mesh and border vertices; particles are not used.
    grid : Grid
        Voxel grid of the tomogram.
    options : Options
        How surfaces are measured; of them the division into leaflets is used.
    density_about : callable or None
        Returns the density around a mesh, for the bilayer. It is called only for membranes that particles are near.

    Returns
    -------
    MembranesAround
        The membranes, and those that cannot be measured.
    """
    membranes: dict[int, Surroundings] = {}
    failed: dict[int, str] = {}
    for number, membrane in sorted(meshes.items()):
        try:
            prepared = prepare_membrane(membrane, grid=grid, options=options)
        except _MEASURE_ERRORS as error:
            failed[number] = str(error) or type(error).__name__
            continue
        if prepared.one_sided_area_nm2 is not None:  # a shell of border caps alone is no membrane
            membranes[number] = Surroundings(prepared, density_about)
    return MembranesAround(membranes, failed)


def particle_context_rows(
    around: MembranesAround,
    picks: Picks,
    *,
    reach_nm: float,
    grid: Grid | None = None,
    object_names: str | Sequence[str] = "particle",
    picks_uri: str | None = None,
) -> list[Row]:
    """Describe the membranes around each particle.

    Distances are exact: to the nearest points of the meshes. Equal input gives equal rows, in the particles' order.

    Parameters
    ----------
    around : MembranesAround
        The membranes of the tomogram.
    picks : Picks
        N particles anywhere in the tomogram.
    reach_nm : float
        Membranes farther than this (nm) from a particle's centre are not considered.
    grid : Grid, optional
        Voxel grid of the tomogram. With it, particles outside are told apart. Default: no border is known.
    object_names : str or sequence of N str
        What the particles are. Default: "particle".
    picks_uri : str, optional
        Where the particles come from. Default: unknown.

    Returns
    -------
    list of Row
        N rows with `membrane_id`, without the other key columns; unknown values are None.

    Raises
    ------
    ValueError
        If the number of object names is wrong.
    """
    names = [object_names] * len(picks) if isinstance(object_names, str) else list(object_names)
    if len(names) != len(picks):
        raise ValueError(f"{len(names)} object names for {len(picks)} particles")
    positions = np.asarray(picks.positions, np.float64).reshape(-1, 3)
    is_finite = np.asarray(np.isfinite(positions).all(axis=1))
    to_border = _border_distances(positions, is_finite, grid)
    within = is_finite & ~(to_border < 0.0)
    nearest = _Nearest.of(around.membranes, positions, np.flatnonzero(within), reach_nm * ANGSTROM_PER_NM)
    status = np.where(nearest.number >= 0, MEASURED, NO_MEMBRANE).astype(object)
    status[~within], status[~is_finite] = OUTSIDE, NO_POSITION
    columns: dict[str, list[Any]] = {column.name: [None] * len(picks) for column in PARTICLE_CONTEXT}
    columns |= {
        "picks": [picks_uri] * len(picks),
        "particle_id": list(range(len(picks))),
        "object_name": names,
        "status": status.tolist(),
        **{name: finite_or_none(positions[:, axis]) for axis, name in enumerate(PLACED_COLUMNS)},
        "next_membrane_id": [number if number >= 0 else None for number in nearest.next_number.tolist()],
        "distance_to_next_membrane_nm": finite_or_none(nearest.next_distance / ANGSTROM_PER_NM),
        "enclosing_membrane_id": _enclosing(around.membranes, positions, within),
        "distance_to_border_nm": finite_or_none(np.where(within, to_border, np.nan) / ANGSTROM_PER_NM),
        "n_failed_membranes": [len(around.failed)] * len(picks),
        "membrane_id": [number if number >= 0 else None for number in nearest.number.tolist()],
    }
    axes = None if picks.orientations is None else np.asarray(picks.orientations, np.float64)[:, :, 2]
    for number, membrane in around.membranes.items():
        members = np.flatnonzero(nearest.number == number)
        if len(members):
            here = _at_membrane(membrane, positions[members], None if axes is None else axes[members])
            for name, values in here.items():
                for place, value in zip(members.tolist(), values, strict=True):
                    columns[name][place] = value
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def count_states(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many rows have each `status`, all of `STATES` included."""
    counts = Counter(row["status"] for row in rows)
    return {state: counts[state] for state in STATES}


@dataclass(eq=False)
class _Nearest:
    """Number of the nearest and of the second nearest membrane of N points (-1: none) and their distances (N,), Å."""

    number: NDArray[np.int64]
    distance: NDArray[np.float64]
    next_number: NDArray[np.int64]
    next_distance: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        membranes: Mapping[int, Surroundings],
        positions: NDArray[np.float64],
        members: NDArray[np.int64],
        reach: float,
    ) -> _Nearest:
        """Search the membranes around the points `members`. Of equally near ones the lowest is taken."""
        n = len(positions)
        found = cls(np.full(n, -1), np.full(n, np.inf), np.full(n, -1), np.full(n, np.inf))
        points = positions[members]
        boxes = {number: membrane.box_distances(points) for number, membrane in membranes.items()}
        # The membrane whose box is nearest first: most of the others are then too far to be searched.
        for number in sorted(boxes, key=lambda number: (float(boxes[number].min(initial=np.inf)), number)):
            worth = np.flatnonzero(boxes[number] <= np.minimum(found.next_distance[members], reach))
            if len(worth):
                distances = membranes[number].surface.closest_points(points[worth]).distances
                near = distances <= reach
                found._add(number, members[worth[near]], distances[near])
        return found

    def _add(self, number: int, places: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
        first = (distances < self.distance[places]) | (
            (distances == self.distance[places]) & (number < self.number[places])
        )
        nearer = places[first]
        self.next_number[nearer], self.next_distance[nearer] = self.number[nearer], self.distance[nearer]
        self.number[nearer], self.distance[nearer] = number, distances[first]
        rest, others = places[~first], distances[~first]
        second = (others < self.next_distance[rest]) | (
            (others == self.next_distance[rest]) & (number < self.next_number[rest])
        )
        self.next_number[rest[second]], self.next_distance[rest[second]] = number, others[second]


def _enclosing(
    membranes: Mapping[int, Surroundings], positions: NDArray[np.float64], within: NDArray[np.bool_]
) -> list[int | None]:
    """Return the number of the closed membrane with the smallest lumen around each point; None without one."""
    enclosing: list[int | None] = [None] * len(positions)
    free = np.flatnonzero(within)
    closed = [number for number, membrane in membranes.items() if membrane.is_closed] if len(free) else []
    for number in sorted(closed, key=lambda number: (membranes[number].lumen_volume, number)):
        inside = membranes[number].in_lumen(positions[free])
        for place in free[inside].tolist():
            enclosing[place] = number
        free = free[~inside]
    return enclosing


def _at_membrane(
    membrane: Surroundings, points: NDArray[np.float64], axes: NDArray[np.float64] | None
) -> dict[str, Sequence[Any]]:
    """Return the columns that depend on the nearest membrane, a value for each of N points with z axes (N, 3)."""
    surface = membrane.surface
    at = surface.closest_points(points)
    outward = normals_at(surface, at)
    mean, gauss = (surface.interpolate(values, at) for values in membrane.membrane.curvatures)
    in_slab = membrane.in_slab(points)
    # Of a shell the leaflet's normal points out of the membrane; one surface is seen from the particle's side.
    flipped = (
        ((points - at.positions) * outward).sum(axis=1) < 0.0 if not membrane.is_shell else np.zeros(len(points), bool)
    )
    normals = np.where(flipped[:, None], -outward, outward)
    nm = 1.0 / ANGSTROM_PER_NM
    bilayer = membrane.bilayer_at_faces
    unknown = np.full(len(points), np.nan)
    leaflets = membrane.leaflets
    has_edge = bool(len(surface.boundary_edges))
    return {
        "distance_nm": finite_or_none(at.distances * nm),
        "side": _sides(membrane, points, in_slab),
        "in_membrane": [None] * len(points) if in_slab is None else in_slab.tolist(),
        "leaflet": [None] * len(points) if leaflets is None else leaflets[at.faces].tolist(),
        "depth_nm": finite_or_none(membrane.depths(points, at, outward) * nm),
        "angle_to_normal_degrees": finite_or_none(unknown if axes is None else _angles(axes, normals)),
        **{f"nearest_{x}_angstrom": finite_or_none(at.positions[:, k]) for k, x in enumerate("xyz")},
        **{f"normal_{x}": finite_or_none(normals[:, k]) for k, x in enumerate("xyz")},
        **{name: finite_or_none(properties.of_curvatures(name, mean, gauss)) for name in _CURVATURES},
        "thickness_nm": finite_or_none(membrane.across[at.faces] * nm),
        "bilayer_thickness_nm": finite_or_none(unknown if bilayer is None else bilayer[at.faces] * nm),
        "distance_to_edge_nm": finite_or_none(_to_edge(membrane, at) * nm if has_edge else unknown),
        "touches_border": [membrane.membrane.touches_border] * len(points),
    }


def _to_edge(membrane: Surroundings, at: SurfacePoints) -> NDArray[np.float64]:
    """Return the distances (N,) of points of the surface to its end, Å; infinite on parts without one."""
    corners = membrane.to_edge[membrane.surface.faces[at.faces]]
    return np.asarray(np.where(at.weights > 0.0, at.weights * corners, 0.0).sum(axis=1))


def _sides(membrane: Surroundings, points: NDArray[np.float64], in_slab: NDArray[np.bool_] | None) -> list[str | None]:
    """Return on which side of a closed membrane points lie; None for an open one."""
    if not membrane.is_closed:
        return [None] * len(points)
    sides = np.where(membrane.in_lumen(points), "inside", "outside")
    known: list[str | None] = (sides if in_slab is None else np.where(in_slab, "membrane", sides)).tolist()
    return known


def _angles(axes: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (N,) between axes and unit normals (N, 3) in degrees; NaN for an axis that is unknown."""
    across = np.linalg.norm(np.cross(axes, normals), axis=1)
    return np.asarray(np.degrees(np.arctan2(across, (axes * normals).sum(axis=1))))


def _border_distances(
    positions: NDArray[np.float64], is_finite: NDArray[np.bool_], grid: Grid | None
) -> NDArray[np.float64]:
    """Return the distances (N,) to the border, half a voxel beyond the outer voxels' centres; negative outside."""
    distances = np.full(len(positions), np.nan)
    if grid is not None:
        half = grid.voxel_spacing_angstrom / 2.0
        inner = positions[is_finite]
        upper = np.array(grid.size_angstrom) - half - inner
        distances[is_finite] = np.minimum(inner + half, upper).min(axis=1)
    return distances

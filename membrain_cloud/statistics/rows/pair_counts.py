"""Rows that count pairs of particles: over all, by bins of a property of those in the centres, and at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.spatial.random_placement import simulate_pair_counts
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.statistics.model.measured_membrane import Measured
    from membrain_cloud.statistics.schema.row import Row

# Of the simulations. A constant: the same input gives the same tables.
SEED = 20240801


def pair_count_rows(measured: Measured) -> list[Row]:
    """A row a component, pair of kinds and bin; none where there is no particle to count about another."""
    return [row for rows in _blocks(measured, np.arange(len(measured.order))) for row in rows]


def binned_pair_count_rows(measured: Measured) -> list[Row]:
    """The same, of the particles in each bin of each property that is asked for, and of distances to classes."""
    rows: list[Row] = []
    if not len(measured.order):
        return rows
    for found in measured.properties:
        if found.of_class is None and found.scale.name not in measured.options.against:
            continue
        scale = found.scale.coarse()
        numbers = scale.numbers(found.at_particles)
        for number in np.unique(numbers[numbers >= 0]).tolist():
            low, high = scale.ends(number)
            binned = {
                "property": scale.name, "property_bin": number, "property_min": low, "property_max": high
            }  # fmt: skip
            own = np.full(len(numbers), False) if found.of_class is None else measured.kinds == found.of_class
            for block in _blocks(measured, np.flatnonzero((numbers == number) & ~own)):
                rows += [_after_names(row, binned) for row in block]
    return rows


def _after_names(row: Row, binned: Row) -> Row:
    names = ("component_id", "object_name", "target_object_name")
    return {name: row[name] for name in names} | binned | row


def _blocks(measured: Measured, centres: NDArray[np.int64]) -> Iterator[list[Row]]:
    """The rows of each component and pair of kinds that has `centres` and others to count about them."""
    if not len(measured.order):
        return
    pairs, edges, n_kinds = measured.pairs, measured.pairs.edges / ANGSTROM_PER_NM, len(measured.kind_names)
    populations = np.zeros((measured.surface.n_components, n_kinds), np.int64)
    np.add.at(populations, (measured.components, measured.kinds), 1)
    for component in np.unique(measured.components[centres]).tolist():
        area = float(measured.component_areas[component]) / ANGSTROM_PER_NM**2
        for one in range(n_kinds):
            here = centres[(measured.components[centres] == component) & (measured.kinds[centres] == one)]
            area_sums = pairs.areas[here].sum(axis=0) / ANGSTROM_PER_NM**2
            for other in range(pairs.counts.shape[1]) if len(here) else ():
                n_target = int(populations[component, other])
                others = n_target - (one == other)
                if others <= 0:
                    continue
                counts = pairs.counts[here, other].sum(axis=0)
                yield [
                    {
                        "component_id": component,
                        "object_name": measured.kind_names[one],
                        "target_object_name": measured.kind_names[other],
                        "bin": number,
                        "r_min_nm": float(edges[number]),
                        "r_max_nm": float(edges[number + 1]),
                        "n_pairs": int(counts[number]),
                        "area_sum_nm2": float(area_sums[number]),
                        "expected_pairs": float(area_sums[number]) * others / area,
                        "n_start": len(here),
                        "n_target": n_target,
                        "area_nm2": area,
                    }
                    for number in range(len(edges) - 1)
                ]


def random_pair_count_rows(measured: Measured) -> list[Row]:
    """Pairs of particles at random on the same surface: a row a component, pair of kinds, simulation and bin."""
    if not len(measured.order) or not measured.options.n_simulations:
        return []
    counts = simulate_pair_counts(
        measured.surface,
        measured.at,
        measured.kinds,
        edges_angstrom=measured.pairs.edges,
        n_simulations=measured.options.n_simulations,
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

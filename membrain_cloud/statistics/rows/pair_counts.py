"""Rows that count pairs of particles: `pair_counts`, `binned_pair_counts` and `random_pair_counts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.spatial.random_placement import simulate_pair_counts
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane
    from membrain_cloud.statistics.schema.column import Row


def pair_count_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `pair_counts`: pairs of particles by distance along the surface.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a component, pair of kinds and bin of distance; none where there is no particle to count around another.
    """
    return [
        row | {"n_simulations": membrane.options.n_simulations}
        for rows in _blocks(membrane, np.arange(len(membrane.order)))
        for row in rows
    ]


def binned_pair_count_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `binned_pair_counts`: pairs around the particles in each coarse bin of a property.

    The properties are those of `options.against`, and the distances to each class of particles.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a property, its bin, component, pair of kinds and bin of distance.
    """
    rows: list[Row] = []
    if not len(membrane.order):
        return rows
    for prop in membrane.properties:
        if prop.of_class is None and prop.scale.name not in membrane.options.against:
            continue
        scale = prop.scale.coarse()
        numbers = scale.numbers(prop.at_particles)
        # A class is not counted in bins of the distance to itself.
        same = np.full(len(numbers), False) if prop.of_class is None else membrane.kinds == prop.of_class
        for number in np.unique(numbers[numbers >= 0]).tolist():
            low, high = scale.ends(number)
            binned = {
                "property": scale.name, "property_bin": number, "property_min": low, "property_max": high
            }  # fmt: skip
            for block in _blocks(membrane, np.flatnonzero((numbers == number) & ~same)):
                rows += [_after_names(row, binned) for row in block]
    return rows


def _after_names(row: Row, binned: Row) -> Row:
    """Insert the columns of a bin after those that name the component and the kinds."""
    names = ("component_id", "object_name", "target_object_name")
    return {name: row[name] for name in names} | binned | row


def _blocks(membrane: MeasuredMembrane, centres: NDArray[np.int64]) -> Iterator[list[Row]]:
    """Yield the rows of each component and pair of kinds, with particles `centres` in the centres."""
    if not len(membrane.order):
        return
    pairs, edges, n_kinds = membrane.pairs, membrane.pairs.edges / ANGSTROM_PER_NM, len(membrane.kind_names)
    populations = np.zeros((membrane.surface.n_components, n_kinds), np.int64)
    np.add.at(populations, (membrane.components, membrane.kinds), 1)
    for component in np.unique(membrane.components[centres]).tolist():
        area = float(membrane.component_areas[component]) / ANGSTROM_PER_NM**2
        for one in range(n_kinds):
            here = centres[(membrane.components[centres] == component) & (membrane.kinds[centres] == one)]
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
                        "object_name": membrane.kind_names[one],
                        "target_object_name": membrane.kind_names[other],
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


def random_pair_count_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `random_pair_counts`: pairs of particles placed at random on the same surface.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a simulation and bin of distance, for every component and pair of kinds of `pair_counts`. Bins without
        pairs have rows too: a sum over membranes has no gaps, and a quantile over simulations counts the zeros.
    """
    n_simulations = membrane.options.n_simulations
    if not len(membrane.order) or not n_simulations:
        return []
    counts = simulate_pair_counts(
        membrane.surface,
        membrane.at,
        membrane.kinds,
        edges_angstrom=membrane.pairs.edges,
        n_simulations=n_simulations,
        seed=membrane.seed,
    )
    rows: list[Row] = []
    number_of = {name: kind for kind, name in enumerate(membrane.kind_names)}
    for block in _blocks(membrane, np.arange(len(membrane.order))):
        names = {name: block[0][name] for name in ("component_id", "object_name", "target_object_name")}
        one, other = number_of[names["object_name"]], number_of[names["target_object_name"]]
        for simulation, of_bins in enumerate(counts[names["component_id"], one, other].tolist()):
            rows += [
                {**names, "simulation": simulation, "bin": number, "n_pairs": n_pairs}
                for number, n_pairs in enumerate(of_bins)
            ]
    return rows

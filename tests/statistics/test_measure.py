"""Tables of a membrane as a whole: their columns, their independence of the order of particles, empty input."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from standins.membranes import GRID, measure, random_picks, slab, sphere

from membrain_cloud.geometry import Picks
from membrain_cloud.statistics.measure import STATISTICS, Density, tomogram_row
from membrain_cloud.statistics.schema.tables import MEMBRANE_KEYS, TABLES, TOMOGRAM_KEYS
from membrain_cloud.statistics.spatial.chains import ChainRules

if TYPE_CHECKING:
    from collections.abc import Callable


def test_rows_hold_the_tables_columns_in_their_kinds() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    z = np.broadcast_to((np.arange(100.0) * 10.0 - 500.0)[:, None, None], GRID.shape)
    dark = sum(np.exp(-0.5 * ((z - side) / 8.0) ** 2) for side in (-20.0, 20.0))
    tables = measure(
        mesh,
        random_picks(mesh, 60, 0),
        border_vertices=border,
        n_simulations=3,
        leaflets_apart=True,
        chains=ChainRules(40.0, 180.0, 180.0, 3, 3),
        density=Density(-np.asarray(dark), GRID.box, GRID),
    )
    assert list(tables) == list(STATISTICS)
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": float, "text": str, "bool": bool}
    for table, rows in tables.items():
        columns = TABLES[table][len(MEMBRANE_KEYS) :]
        assert rows
        for row in rows:
            assert list(row) == [column.name for column in columns]
            for column in columns:
                value = row[column.name]
                assert value is None or type(value) is kinds[column.kind], column.name
                assert not isinstance(value, float) or math.isfinite(value), column.name


def test_columns_are_described_and_keys_come_first() -> None:
    for table, columns in TABLES.items():
        keys = TOMOGRAM_KEYS if table == "tomograms" else MEMBRANE_KEYS
        assert columns[: len(keys)] == keys
        names = [column.name for column in columns]
        assert len(set(names)) == len(names)
        assert all(column.description for column in columns)
        for suffix, unit in {"_nm": "nm", "_nm2": "nm²", "_nm3": "nm³", "_angstrom": "Å", "_degrees": "°"}.items():
            for column in columns:
                if column.name.endswith(suffix) and "per_" not in column.name:
                    assert column.unit == unit, column.name


def test_tomogram_row() -> None:
    row = tomogram_row(
        GRID,
        n_membranes=3,
        n_failed_membranes=0,
        n_particles=None,
        mesh_uri="membrane:membrain/ab",
        picks_uri=None,
        density_uri=None,
        lamella_uri=None,
        package_version="1.0",
        data_version="1",
    )
    assert list(row) == [column.name for column in TABLES["tomograms"][len(TOMOGRAM_KEYS) :]]
    assert row["volume_um3"] == pytest.approx(0.1 * 0.2 * 0.2)
    assert (row["shape_z"], row["shape_x"], row["n_particles"]) == (100, 200, None)


def test_arguments_of_different_lengths_are_refused() -> None:
    mesh = sphere(100, 200.0)
    with pytest.raises(ValueError, match="border flags"):
        measure(mesh, None, border_vertices=np.zeros(3, bool))
    with pytest.raises(ValueError, match="object names"):
        measure(mesh, random_picks(mesh, 3, 0), object_names=["a", "b"])


@pytest.mark.parametrize("shuffle", [lambda n: np.arange(n)[::-1], lambda n: np.random.default_rng(9).permutation(n)])
def test_the_order_of_particles_does_not_matter(shuffle: Callable[[int], np.ndarray]) -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    picks = random_picks(mesh, 60, 7, off=10.0)
    names = np.array(["a", "b", "b"] * 20)
    order = shuffle(60)
    assert picks.orientations is not None
    shuffled = Picks(picks.positions[order], picks.orientations[order], picks.scores[order])
    one = measure(mesh, picks, border_vertices=border, object_names=names.tolist())
    other = measure(mesh, shuffled, border_vertices=border, object_names=names[order].tolist())
    assert one["membranes"] == other["membranes"]
    assert one["pair_counts"] == other["pair_counts"]
    back = {int(old): new for new, old in enumerate(order)}
    for table in ("particles", "neighbors"):
        renamed = [
            {k: back[v] if k in ("particle_id", "target_id") else v for k, v in row.items()} for row in one[table]
        ]
        key = ["particle_id", "target_object_name", "rank"]
        assert sorted(renamed, key=lambda row: [row.get(k, 0) for k in key]) == other[table]


def test_no_particles_give_no_rows_and_no_warnings() -> None:
    mesh = sphere(300, 200.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picks in (None, Picks(np.zeros((0, 3)))):
            tables = measure(mesh, picks, n_simulations=2)
            filled = [name for name in STATISTICS if tables[name]]
            assert filled == ["membranes", "membrane_histograms"]
        lone = measure(mesh, random_picks(mesh, 1, 0), n_simulations=2)
        assert [len(lone[name]) for name in ("membranes", "particles", "neighbors", "pair_counts")] == [1, 1, 0, 0]
        assert lone["random_pair_counts"] == []


def test_counting_in_parts_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = sphere(500, 300.0)
    picks = random_picks(mesh, 50, 8)
    whole = measure(mesh, picks)
    monkeypatch.setattr("membrain_cloud.statistics.spatial.neighbors.SOURCES_AT_ONCE", 7)
    assert measure(mesh, picks) == whole

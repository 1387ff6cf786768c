"""Row keys identify the rows that are really made, and parents have a row for each of their children."""

from __future__ import annotations

from standins.membranes import measure, random_picks, slab

from membrain_cloud.statistics.schema.particles import NEIGHBORS
from membrain_cloud.statistics.schema.tables import ALL_TABLES, MEMBRANE_KEYS, PARENTS, ROW_KEYS, TABLES
from membrain_cloud.statistics.spatial.chains import ChainRules


def test_row_keys_are_columns_of_every_table() -> None:
    assert list(ROW_KEYS) == list(ALL_TABLES)
    for table, keys in ROW_KEYS.items():
        assert set(keys) <= {column.name for column in ALL_TABLES[table]}, table
    assert TABLES["neighbors"] == (*MEMBRANE_KEYS, *NEIGHBORS)


def test_row_keys_are_unique_in_measured_rows() -> None:
    mesh, border = slab(400.0, 40.0, 20.0)
    tables = measure(
        mesh,
        random_picks(mesh, 30, 0),
        border_vertices=border,
        object_names=["a", "b"] * 15,
        leaflets_apart=True,
        n_simulations=2,
        chains=ChainRules(40.0, 180.0, 180.0, 3, 3),
    )
    for table, rows in tables.items():
        keys = [tuple(row[name] for name in ROW_KEYS[table]) for row in rows]
        assert len(set(keys)) == len(keys), table
    for table, (parent, names) in PARENTS.items():
        parents = {tuple(row[name] for name in names) for row in tables[parent]}
        assert tables[table]
        assert {tuple(row[name] for name in names) for row in tables[table]} <= parents

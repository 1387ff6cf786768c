"""Chains are found whole in any order of the particles, and each rule breaks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from membrain_cloud.statistics.spatial.chains import ChainRules, candidates, find_chains, turns_degrees

RULES = ChainRules(distance_nm=40.0, angle_degrees=60.0, turn_degrees=80.0, n_neighbors=3, least_members=3)


def nearest(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1)[:, :3]
    rows = np.repeat(np.arange(len(positions)), order.shape[1])
    return rows, order.reshape(-1), np.tile(np.arange(1, order.shape[1] + 1), len(positions))


def chains_of(positions: np.ndarray, turns: np.ndarray, rules: ChainRules = RULES) -> list[list[int]]:
    links = candidates(positions, *nearest(positions), rules)
    apart = np.abs((turns[links.one] - turns[links.other] + 180.0) % 360.0 - 180.0)
    return find_chains(positions, links, apart, rules)


def row(count: int, step: float, y: float = 0.0) -> np.ndarray:
    return np.column_stack([np.arange(count) * step, np.full(count, y), np.zeros(count)])


def test_a_row_is_one_chain_from_end_to_end() -> None:
    assert chains_of(row(7, 250.0), np.zeros(7)) == [[0, 1, 2, 3, 4, 5, 6]]


def test_each_rule_breaks_a_row() -> None:
    turns = np.zeros(7)
    apart = row(7, 250.0)
    apart[3:, 0] += 200.0
    assert chains_of(apart, turns) == [[3, 4, 5, 6], [0, 1, 2]]
    turned = np.where(np.arange(7) < 3, 0.0, 90.0)
    assert chains_of(row(7, 250.0), turned) == [[3, 4, 5, 6], [0, 1, 2]]
    bent = row(7, 250.0)
    bent[4:, 0], bent[4:, 1] = 750.0 - 60.0 * np.arange(1, 4), 240.0 * np.arange(1, 4)
    # a turn of 104 degrees at particle 3, which stays with the nearer particles
    assert sorted(map(len, chains_of(bent, turns))) in ([3, 4],)
    assert chains_of(row(2, 250.0), np.zeros(2)) == []
    assert chains_of(row(2, 250.0), np.zeros(2), replace(RULES, least_members=2)) == [[0, 1]]


def test_a_ring_is_not_closed_and_two_rows_stay_two() -> None:
    angle = 2 * np.pi * np.arange(12) / 12
    ring = 480.0 * np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    (chain,) = chains_of(ring, np.zeros(12))
    assert sorted(chain) == list(range(12))
    two = np.concatenate([row(5, 250.0), row(5, 250.0, y=900.0)])
    assert chains_of(two, np.zeros(10)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_unknown_angles_and_coinciding_particles_are_not_linked() -> None:
    positions = row(4, 250.0)
    links = candidates(positions, *nearest(positions), RULES)
    assert find_chains(positions, links, np.full(len(links.one), np.nan), RULES) == []
    same = np.zeros((4, 3))
    assert len(candidates(same, *nearest(same), RULES).one) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_particles_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions, turns = rng.uniform(0, 1500.0, (60, 3)) * [1.0, 1.0, 0.02], rng.uniform(0, 120.0, 60)
    order = rng.permutation(60)
    one = chains_of(positions, turns)
    assert one
    other = [[int(order[particle]) for particle in chain] for chain in chains_of(positions[order], turns[order])]

    def forms(chains: list[list[int]]) -> list[list[int]]:
        return sorted(min(chain, chain[::-1]) for chain in chains)

    assert forms(one) == forms(other)


def test_turns_of_a_right_angle() -> None:
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0]])
    np.testing.assert_allclose(turns_degrees(positions, [0, 1, 2, 3]), [90.0, 0.0], atol=1e-6)

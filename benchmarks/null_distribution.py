"""Test that p-values of pooled tables are uniform where particles lie at random.

python -m benchmarks.null_distribution [FIGURE]

Each experiment places particles at random on several membranes, measures them as `measure` does, pools the counts and
tests them. Under the null, p is uniform, and envelopes hold the observed curve in 95 of 100 experiments. The membranes
are flat and open, so that their ends matter; on a flat convex membrane the geodesic is the straight line, which is
exact, and quick enough for thousands of membranes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import kstest

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.surface import Surface, SurfacePoints
from membrain_cloud.statistics.spatial.random_placement import bins_between, random_points, simulate_pair_counts
from membrain_cloud.tables.curves import Curve, RandomCurves, significance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_SIMULATIONS = 99
EDGES_NM = np.arange(0.0, 41.0, 2.0)
AT_NM = (10.0, 20.0, 40.0)
CURVES = {"k_nm2": "k", "l_minus_r_nm": "l_minus_r", "g": "g"}


class FlatSurface(Surface):
    """A flat convex surface: geodesics are straight."""

    def geodesic(
        self, sources: SurfacePoints, targets: SurfacePoints, *, cutoff_angstrom: float = np.inf
    ) -> NDArray[np.float64]:
        """Return the straight distances, (S, T) Å."""
        square = np.zeros((len(sources), len(targets)))
        for axis in range(3):
            square += (sources.positions[:, None, axis] - targets.positions[None, :, axis]) ** 2
        distances = np.sqrt(square)
        distances[distances > cutoff_angstrom] = np.inf
        return distances


def flat_membrane(width_nm: float, height_nm: float, edge_nm: float = 4.0) -> FlatSurface:
    """Return a flat rectangle of triangles."""
    columns, rows = int(width_nm / edge_nm) + 1, int(height_nm / edge_nm) + 1
    x, y = np.meshgrid(np.linspace(0.0, 10.0 * width_nm, columns), np.linspace(0.0, 10.0 * height_nm, rows))
    number = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (number[i, j].reshape(-1) for i in (np.s_[:-1], np.s_[1:]) for j in (np.s_[:-1], np.s_[1:]))
    faces = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)]).astype(np.int32)
    return FlatSurface(Mesh(np.stack([x.reshape(-1), y.reshape(-1), np.zeros(x.size)], axis=1), faces))


def at_random(surface: Surface, count: int, rng: np.random.Generator) -> SurfacePoints:
    """Place particles evenly at random."""
    return random_points(surface, np.arange(len(surface.faces)), count, rng)


def in_pairs(share: float, within_nm: float) -> Callable[[Surface, int, np.random.Generator], SurfacePoints]:
    """Return a function that places a share of the particles near others: the alternative of a test of power."""

    def place(surface: Surface, count: int, rng: np.random.Generator) -> SurfacePoints:
        positions = at_random(surface, count, rng).positions
        moved = np.flatnonzero(rng.uniform(size=count) < share)
        angle, reach = (
            rng.uniform(0.0, 2.0 * np.pi, len(moved)),
            10.0 * within_nm * np.sqrt(rng.uniform(size=len(moved))),
        )
        offset = np.stack([reach * np.cos(angle), reach * np.sin(angle), np.zeros(len(moved))], axis=1)
        positions[moved] = positions[rng.integers(0, count, len(moved))] + offset
        return surface.closest_points(positions)

    return place


@dataclass(frozen=True)
class Experiment:
    """The outcome of one experiment: p, and whether the envelopes hold each curve at `AT_NM`."""

    p: float
    inside: NDArray[np.bool_]


def run_experiment(
    surface: Surface,
    *,
    n_membranes: int,
    n_particles: int,
    seed: int,
    place: Callable[[Surface, int, np.random.Generator], SurfacePoints] = at_random,
) -> Experiment:
    """Place particles on membranes, count their pairs and those of the simulations, and test the sums."""
    edges, n_bins = 10.0 * EDGES_NM, len(EDGES_NM) - 1
    observed, simulated = np.zeros(n_bins), np.zeros((N_SIMULATIONS, n_bins))
    kinds = np.zeros(n_particles, np.int64)
    for membrane in range(n_membranes):
        at = place(surface, n_particles, np.random.default_rng([seed, membrane]))
        bins = bins_between(surface, at, at, edges)
        np.fill_diagonal(bins, -1)
        observed += np.bincount(bins[bins >= 0], minlength=n_bins)
        simulated += simulate_pair_counts(
            surface,
            at,
            kinds,
            edges_angstrom=edges,
            n_simulations=N_SIMULATIONS,
            seed=(seed * 1009 + membrane) * 7919,
        )[0, 0, 0]
    rings = np.pi * np.diff(EDGES_NM**2)
    curve = Curve(
        pd.DataFrame(
            {
                "bin": np.arange(n_bins),
                "r_min_nm": EDGES_NM[:-1],
                "r_max_nm": EDGES_NM[1:],
                "n_pairs": observed,
                "area_sum_nm2": n_particles * n_membranes * rings,
                "expected_pairs": simulated.mean(axis=0) + 1e-9,
                "n_start": n_particles * n_membranes,
                "n_simulations": N_SIMULATIONS,
            }
        )
    )
    simulation, number = np.indices(simulated.shape)
    random = RandomCurves(
        curve,
        pd.DataFrame(
            {"simulation": simulation.reshape(-1), "bin": number.reshape(-1), "n_pairs": simulated.reshape(-1)}
        ),
    )
    limits, places = random.envelopes(0.95), np.searchsorted(EDGES_NM, AT_NM) - 1
    inside = [
        (limits[f"{name}_low"] <= getattr(curve, own)) & (getattr(curve, own) <= limits[f"{name}_high"])
        for name, own in CURVES.items()
    ]
    return Experiment(significance(curve, random, 0.0, np.inf)["p"], np.stack(inside)[:, places])


def uniformity(p: NDArray[np.float64]) -> float:
    """Return the p-value of a Kolmogorov-Smirnov test of uniform p; steps of p are filled evenly."""
    spread = np.random.default_rng(0).uniform(size=len(p))
    return float(kstest(p - spread / (N_SIMULATIONS + 1), "uniform").pvalue)


def main(figure: str | None = None, draws: int = 400) -> None:
    """Print shares and coverages of the null, and draw the histograms of p."""
    surface = flat_membrane(140.0, 100.0)
    found = {}
    for n_membranes, n_particles, some in (
        (1, 5, draws),
        (1, 40, draws),
        (1, 200, draws),
        (20, 5, draws),
        (20, 40, draws),
    ):
        experiments = [
            run_experiment(surface, n_membranes=n_membranes, n_particles=n_particles, seed=seed) for seed in range(some)
        ]
        p = np.array([experiment.p for experiment in experiments])
        coverage = np.mean([experiment.inside for experiment in experiments], axis=0)
        found[f"{n_membranes} x {n_particles} particles"] = p
        print(
            f"{n_membranes:4d} membranes, {n_particles:4d} particles each: P(p <= 0.05) {(p <= 0.05).mean():.3f}, "
            f"KS {uniformity(p):.2f}, coverage at {AT_NM} nm "
            + ", ".join(f"{name} {np.round(row, 3).tolist()}" for name, row in zip("KLg", coverage, strict=True)),
            flush=True,
        )
    clustered = [
        run_experiment(surface, n_membranes=24, n_particles=15, seed=seed, place=in_pairs(0.12, 8.0)).p
        for seed in range(100)
    ]
    power = float(np.mean(np.array(clustered) <= 0.05))
    print(f"  24 membranes, 15 particles each, 12 % placed within 8 nm of another: power {power:.2f}")
    if figure:
        _draw(found, figure)


def _draw(found: dict[str, NDArray[np.float64]], path: str) -> None:
    """Draw one histogram of p for each number of membranes and particles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2.4 * len(found), 2.6), layout="constrained")
    FigureCanvasAgg(drawing)
    for axes, (title, p) in zip(drawing.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axes.hist(p - 0.5 / (N_SIMULATIONS + 1), np.linspace(0.0, 1.0, 11), color="#4477aa", edgecolor="white")
        axes.axhline(len(p) / 10.0, color="black", linewidth=1.0)
        error = 2.0 * np.sqrt(len(p) * 0.09)
        axes.axhspan(len(p) / 10.0 - error, len(p) / 10.0 + error, color="black", alpha=0.12, linewidth=0)
        axes.set(title=title, xlabel="p", xlim=(0.0, 1.0))
        axes.title.set_fontsize(10)
    drawing.axes[0].set_ylabel("experiments")
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:2])

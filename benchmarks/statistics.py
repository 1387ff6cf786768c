"""Statistics beside membrain-stats on the same files, and against closed forms: `python -m benchmarks.statistics`.

Each program runs in its own process on one core: it reads a folder of .obj and _clusters.star, finds nearest neighbours
and Ripley's functions, and says how long that took and the most memory it held. `benchmarks/peers.sh` installs it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import starfile
from scipy.spatial import ConvexHull

from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.pipeline.settings import MeasureSettings
from membrain_cloud.statistics.measure import Density, Membrane, measure_tomogram
from membrain_cloud.statistics.spatial.neighbors import Pairs, count_pairs
from membrain_cloud.statistics.spatial.random_placement import random_points
from membrain_cloud.store.formats.meshes import read_obj
from membrain_cloud.store.formats.star import read_star_picks

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = Path(__file__).parent / ".peers/bin/python"
RADIUS, CUTOFF, BIN, CENTRE = 500.0, 400.0, 50.0, 700.0  # Å
THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

PEER_PROGRAM = f"""
import json, sys, time
from membrain_stats.geodesic_distances.geodesic_nearest_neighbors import geodesic_nearest_neighbors_folder
from membrain_stats.geodesic_distances.geodesic_ripleys import geodesic_ripleys_folder
folder, out = sys.argv[1:3]
began, busy = time.perf_counter(), time.process_time()
geodesic_nearest_neighbors_folder(in_folder=folder, out_folder=out, num_neighbors=3)
geodesic_ripleys_folder(in_folder=folder, out_folder=out, ripley_type="K", bin_size={BIN})
seconds, cpu = time.perf_counter() - began, time.process_time() - busy
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps(dict(seconds=seconds, cpu=cpu, mib=peak / 1024)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vertices", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--particles", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--rate", action="store_true", help="only how many membranes a core measures in ten minutes")
    parser.add_argument("--all-cores", action="store_true", help="let both programs use every core")
    parser.add_argument("--ours", metavar="FOLDER", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ours:
        say(json.dumps(run_ours(Path(chosen.ours))))
        return
    if chosen.rate:
        rate()
        return
    closed_forms()
    if chosen.no_peer or not PEER.exists():
        say("membrain-stats is not there (benchmarks/peers.sh installs it): no comparison")
        return
    for vertices in chosen.vertices:
        for particles in chosen.particles:
            side_by_side(vertices, particles, {} if chosen.all_cores else THREADS)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------ shapes


def sphere(count: int, radius: float) -> Mesh:
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - height**2)
    points = np.stack([np.cos(turn) * ring, np.sin(turn) * ring, height], axis=1)
    faces = ConvexHull(points).simplices.astype(np.int32)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return Mesh(points * radius, faces)


def random_on(surface: Surface, count: int, seed: int) -> np.ndarray:
    return random_points(surface, np.arange(len(surface.faces)), count, np.random.default_rng(seed)).positions


# ------------------------------------------------------------------ side by side


def side_by_side(vertices: int, particles: int, threads: dict[str, str]) -> None:
    mesh = sphere(vertices, RADIUS)
    surface = Surface(mesh)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        positions = random_on(surface, particles, 1)
        write_obj(folder / "membrane.obj", mesh)
        coordinates = [f"rlnCoordinate{axis}" for axis in "XYZ"]
        table = pd.DataFrame(positions, columns=coordinates).assign(rlnClassNumber=0)
        starfile.write(table, folder / "membrane_clusters.star")
        environment = os.environ | threads
        ours = [sys.executable, "-m", "benchmarks.statistics", "--ours", str(folder)]
        theirs = [str(PEER), "-c", PEER_PROGRAM, str(folder), str(Path(name) / "out")]
        mine, peer = (json.loads(output(command, environment)) for command in (ours, theirs))
        unit = positions / np.linalg.norm(positions, axis=1, keepdims=True)
        arcs = RADIUS * np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
        np.fill_diagonal(arcs, np.inf)
        say(f"\n{vertices} vertices, {particles} particles      ours   membrain-stats    ratio")
        for what, key in (("seconds", "seconds"), ("CPU seconds", "cpu"), ("peak MiB, imports included", "mib")):
            say(f"  {what:<28}{mine[key]:>12.2f}{peer[key]:>16.2f}{peer[key] / max(mine[key], 1e-9):>9.1f}")
        compare(arcs, mine, Path(name) / "out")


def compare(arcs: np.ndarray, mine: dict, out: Path) -> None:
    """Where the two differ, and what is right: great circles, and K of what lies at random on a sphere."""
    found = starfile.read(out / "membrane_nearest_neighbors.star")
    nearest = np.sort(arcs, axis=1)[:, 0]
    theirs = found["nn0_distance"].to_numpy(float)
    ours = np.array(mine["nearest"])
    say(f"  nearest neighbour, mean error, Å: {np.nanmean(np.abs(ours - nearest)):.3f} ours,"
        f" {np.mean(np.abs(theirs - nearest)):.3f} theirs")  # fmt: skip
    say("    (great circles are right; theirs snaps particles to vertices and takes the heat method's distances)")
    curve = starfile.read(out / "ripleysK.star")
    edges = np.arange(BIN, CUTOFF + 1, BIN)
    n = len(arcs)
    counts = np.array([(arcs < r).sum() for r in edges])
    area = 4 * np.pi * RADIUS**2
    direct = counts * area / (n * (n - 1))
    at_random = 2 * np.pi * RADIUS**2 * (1 - np.cos(edges / RADIUS))
    x, y = curve["x_values"].to_numpy(float), curve["y_values"].to_numpy(float)
    say("  K / K at random     r, Å   by definition   ours   theirs (as its file has it; forced to 1 at its end)")
    for i, r in enumerate(edges):
        there = y[np.argmin(np.abs(x - r))]  # its K is a ratio to randomness already
        say(f"  {r:>25.0f}{direct[i] / at_random[i]:>15.3f}{mine['k'][i] / at_random[i]:>9.3f}{there:>9.3f}")
    say("    (the definition is right; theirs counts pairs in one bin and the area in the bin before it)")


def run_ours(folder: Path) -> dict:
    warm = Surface(sphere(200, 100.0))
    neighbors_and_ripley(warm, random_on(warm, 5, 0))  # compiles, or reads what was compiled
    began, busy = time.perf_counter(), time.process_time()
    surface = Surface(read_obj(str(folder / "membrane.obj"), unit_angstrom=1.0))
    positions = read_star_picks(str(folder / "membrane_clusters.star"), voxel_spacing_angstrom=1.0).positions
    pairs = neighbors_and_ripley(surface, positions)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    # Of this program alone: getrusage's peak is also that of the process it was started from.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    n, area = len(positions), float(surface.face_areas.sum())
    nearest = pairs.neighbors.nearest(0, n)
    k = np.cumsum(pairs.counts.sum(axis=(0, 1))) * area / (n * (n - 1))
    return {
        "seconds": seconds,
        "cpu": cpu,
        "mib": peak / 1024,
        "nearest": nearest.tolist(),
        "k": k.tolist(),
    }


def neighbors_and_ripley(surface: Surface, positions: np.ndarray) -> Pairs:
    return count_pairs(
        surface,
        surface.closest_points(positions),
        np.zeros(len(positions), np.int64),
        cutoff_angstrom=CUTOFF,
        bin_width_angstrom=BIN,
        boundary_cutoff_angstrom=0.0,
        n_neighbors=3,
    )


def output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def write_obj(path: Path, mesh: Mesh) -> None:
    lines = ["v {:.9g} {:.9g} {:.9g}".format(*vertex) for vertex in mesh.vertices]
    lines += ["f {} {} {}".format(*(face + 1)) for face in mesh.faces]
    path.write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------ rate


def rate() -> None:
    """CPU seconds of all statistics at the default settings, a vesicle of two leaflets in a tomogram."""
    say("all statistics, default settings      CPU s a membrane    membranes in 10 min on a core")
    measured_vesicle(1000, 10)  # compiles
    for vertices, particles in ((5000, 100), (10_000, 50), (10_000, 100), (10_000, 200), (20_000, 100)):
        began = time.process_time()
        for seed in range(3):
            measured_vesicle(vertices, particles, seed)
        seconds = (time.process_time() - began) / 3
        say(f"  {vertices:>6} vertices, {particles:>3} particles{seconds:>22.2f}{600 / seconds:>32.0f}")


@functools.lru_cache(maxsize=1)
def vesicle(vertices: int) -> tuple[Mesh, Density]:
    outer, inner = sphere(vertices // 2, RADIUS), sphere(vertices - vertices // 2, RADIUS - 50.0)
    corners = np.concatenate([outer.vertices, inner.vertices]) + CENTRE
    faces = np.concatenate([outer.faces, inner.faces[:, ::-1] + len(outer.vertices)]).astype(np.int32)
    grid = Grid((140, 140, 140), 10.0)
    z, y, x = np.indices(grid.shape) * 10.0 - CENTRE
    radius = np.sqrt(x * x + y * y + z * z)
    lines = sum(np.exp(-0.5 * ((radius - line) / 8.0) ** 2) for line in (RADIUS - 45.0, RADIUS - 5.0))
    return Mesh(corners, faces), Density((-np.asarray(lines)).astype(np.float32), grid.box, grid)


def measured_vesicle(vertices: int, particles: int, seed: int = 0) -> None:
    mesh, density = vesicle(vertices)
    positions = random_on(Surface(mesh), particles, seed)
    outwards = (positions - CENTRE) / np.linalg.norm(positions - CENTRE, axis=1, keepdims=True)
    turns = np.random.default_rng(seed).uniform(0.0, 2 * np.pi, particles)
    picks = Picks(positions, orientations_from_normals(outwards, turns))
    membrane = Membrane(mesh, picks, np.zeros(len(mesh.vertices), bool), "particle")
    measure_tomogram(
        {1: membrane}, grid=density.grid, options=MeasureSettings().options(), density_about=lambda _: density
    )


# ------------------------------------------------------------------ closed forms


def closed_forms() -> None:
    say("against closed forms                                   largest error    mean error")
    for what, errors in (*geodesic_errors(), *area_errors(), *curvature_errors()):
        say(f"  {what:<52}{np.max(np.abs(errors)):>14.2e}{np.mean(np.abs(errors)):>14.2e}")


def geodesic_errors() -> Iterator[tuple[str, np.ndarray]]:
    for count in (2500, 10_000, 50_000):
        surface = Surface(sphere(count, RADIUS))
        at = random_points(surface, np.arange(len(surface.faces)), 60, np.random.default_rng(0))
        unit = at.positions / np.linalg.norm(at.positions, axis=1, keepdims=True)
        arcs = RADIUS * np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
        surface.geodesic(at, at, cutoff_angstrom=10.0)
        began = time.perf_counter()
        found = surface.geodesic(at, at, cutoff_angstrom=CUTOFF)
        each = (time.perf_counter() - began) / len(at) * 1e3
        near = (arcs > 1.0) & (arcs < CUTOFF - 1.0)
        yield f"geodesics, sphere of {count} vertices, {each:.2f} ms each", found[near] / arcs[near] - 1.0


def area_errors() -> Iterator[tuple[str, np.ndarray]]:
    surface = Surface(sphere(10_000, RADIUS))
    yield "area, sphere of 10000 vertices", np.array([surface.face_areas.sum() / (4 * np.pi * RADIUS**2) - 1.0])
    yield "Gauss-Bonnet, sum of the angle defects", np.array([surface.angle_defects.sum() / (4 * np.pi) - 1.0])


def curvature_errors() -> Iterator[tuple[str, np.ndarray]]:
    surface = Surface(sphere(10_000, RADIUS))
    mean, gauss = curvature(surface, rings=2)
    yield "mean curvature, sphere of 10000 vertices", mean * RADIUS - 1.0
    total = (gauss * surface.vertex_areas).sum() / (4 * np.pi)
    yield "Gauss-Bonnet, fitted curvature times area", np.array([total - 1.0])


if __name__ == "__main__":
    main()

"""From masks to scored meshes and clusters beside membrain-pick: same membranes, same checkpoint, one thread each.

    benchmarks/peers.sh                        once: the peer's environment
    python -m benchmarks.picking               conversion, prediction and clustering, both sides, in one run
    python -m benchmarks.picking --ours        our side alone
    python -m benchmarks.picking --clustering  20 000 seeds in a process that does nothing else: its peak memory

Membranes and tomogram are a phantom's; the checkpoint is a random one of the published architecture. Every side is a
process of its own; times leave out imports, memory is the process's peak. On a machine that others use too, the CPU's
seconds say more than the wall's. --no-clusters leaves out the clustering, which takes the peer minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.mesh.spectral.operators import Operators

PEER = Path(__file__).parent / ".peers" / "bin" / "python"
THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SEEDS, PEERS_SEEDS = 20_000, 4_000
_PEER = """
import json, os, resource, sys, time, types
import numpy as np, torch
# membrain-pick imports one function of surforama, and does not call it here: no need for a viewer
for name in ("surforama", "surforama.utils", "surforama.utils.geometry"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["surforama.utils.geometry"].rotate_around_vector = None
from membrain_pick.mesh_projections.mesh_conversion_wrappers import mesh_for_tomo_mb_folder
from membrain_pick.predict import predict
from membrain_pick.clustering.mean_shift_inference import mean_shift_for_scores
torch.set_num_threads(1)
folder, found = sys.argv[1], {}
def timed(name, work):
    started, busy = time.perf_counter(), time.process_time()
    work()
    found[name], found[name + "_cpu"] = time.perf_counter() - started, time.process_time() - busy
timed("convert", lambda: mesh_for_tomo_mb_folder(
    folder + "/tomo.mrc", folder + "/membranes", folder + "/peer_meshes", step_numbers=(-10, 10),
    barycentric_area=400.0, input_pixel_size=10.0))
options = dict(C_width=16, conv_width=16, num_workers=0, verbose=False)
for name in ("predict", "predict_cached"):
    timed(name, lambda: predict(folder + "/peer_meshes", folder + "/random.ckpt", folder + "/peer_scores", **options))
points = np.load(folder + "/seeds.npz")
if int(sys.argv[2]): timed("cluster", lambda: mean_shift_for_scores(
    points["points"][:int(sys.argv[2])], points["scores"][:int(sys.argv[2])], bandwidth=75.0, max_iter=150, margin=0.0,
    device="cpu", score_threshold=7.0))
found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT" + json.dumps(found))
"""


def make_inputs(folder: Path) -> None:
    """Write a phantom, a mask for each membrane, a random checkpoint, and scored vertices of a wide sheet."""
    import torch

    from membrain_cloud.networks.picking.diffusion_net import Architecture, DiffusionNet
    from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
    from membrain_cloud.store.formats.volume_writer import write_mrc

    phantom = make_phantom(3, PhantomSettings(shape=(96, 160, 160)))
    write_mrc(str(folder / "tomo.mrc"), phantom.density, 10.0)
    (folder / "membranes").mkdir()
    for number in range(1, int(phantom.instances.max()) + 1):
        write_mrc(str(folder / f"membranes/mb{number}.mrc"), (phantom.instances == number).astype(np.int8), 10.0)
    torch.manual_seed(0)
    network = DiffusionNet(Architecture(channels=16, width=16, outputs=1, blocks=4, hidden=16, profile_blocks=2))
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    state = {name: torch.rand_like(v) * 0.1 if name.endswith("diffusion_time") else v for name, v in state.items()}
    facts = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.2.0", "state_dict": state}
    torch.save(facts, folder / "random.ckpt")
    points, scores = seeds()
    np.savez(folder / "seeds.npz", points=points, scores=scores)


def seeds() -> tuple[Any, Any]:
    """Scored vertices of a wide sheet, about 20 Å apart, all below the threshold."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(SEEDS)))
    places = (
        np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)[:SEEDS] * 20.0
    )
    points = np.column_stack([places + rng.normal(0, 4, places.shape), 30 * np.sin(places[:, 0] / 400)])
    return points, rng.uniform(0, 6.9, SEEDS)


def clustering() -> None:
    import resource

    from membrain_cloud.picking.clustering import dense_clusters, mean_shift

    points, scores = seeds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = time.process_time()
    labels = dense_clusters(
        mean_shift(points, scores, bandwidth_angstrom=75.0, max_iterations=150), radius=30.0, min_samples=5
    )
    used = time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{len(points)} seeds, {labels.max() + 1} clusters, {used:.1f} s of the processor with compilation: peak "
        f"{peak:.0f} MiB, of which {before:.0f} MiB are imports and the seeds\n"
    )


def ours(folder: Path) -> dict[str, Any]:
    import resource

    import torch

    from membrain_cloud.geometry import Box, Grid, Mesh
    from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
    from membrain_cloud.mesh.density_sampling import sample_along_normals
    from membrain_cloud.networks.picking.picker import load_picker
    from membrain_cloud.picking.clustering import dense_clusters, mean_shift
    from membrain_cloud.picking.vertex_scores import PatchOptions, vertex_scores
    from membrain_cloud.segmentation.instances import instance_boxes
    from membrain_cloud.store.formats.meshes import read_h5
    from membrain_cloud.store.formats.volume_reader import read_volume

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    picker = load_picker(folder / "random.ckpt")
    warm_up()

    def convert() -> list[tuple[Mesh, Any]]:
        density, _ = read_volume(str(folder / "tomo.mrc"))
        grid = Grid(density.shape, 10.0)
        made = []
        for file in sorted((folder / "membranes").iterdir()):
            mask, _ = read_volume(str(file))
            box = instance_boxes(mask)[1]
            mesh = mesh_membrane(mask[box.slices] > 0, box, grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
            assert mesh is not None
            reach = Box(
                tuple(max(0, a - 5) for a in box.start),  # type: ignore[arg-type]
                tuple(min(n, b + 5) for b, n in zip(box.stop, grid.shape, strict=True)),  # type: ignore[arg-type]
            )
            profiles = sample_along_normals(
                density[reach.slices],
                reach,
                grid,
                mesh.vertices,
                mesh.vertex_normals(),
                picker.offsets_angstrom,
                outside=0.0,
                spline_order=3,
            )
            made.append((mesh, profiles))
        return made

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started, busy = time.perf_counter(), time.process_time()
        yield
        found[name], found[f"{name}_cpu"] = time.perf_counter() - started, time.process_time() - busy

    with timed("convert"):
        meshes = convert()
    theirs = sorted((folder / "peer_meshes").glob("*.h5")) if (folder / "peer_meshes").is_dir() else []
    if theirs:
        read = [read_h5(str(file), voxel_spacing_angstrom=10.0) for file in theirs]
        meshes = [(stored.mesh, stored.profiles) for stored in read]
    found["vertices"] = sum(len(mesh.vertices) for mesh, _ in meshes)
    cache: dict[str, Operators] = {}
    for name, partitions in (
        ("predict", "released"),
        ("predict_cached", "released"),
        ("predict_even", "even"),
        ("predict_even_cached", "even"),
    ):
        with timed(name):
            for mesh, profiles in meshes:
                vertex_scores(mesh, profiles, picker.predict, PatchOptions(2000, 128, 500.0, partitions), cache=cache)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with np.load(folder / "seeds.npz") as seeds:
        points, scores = seeds["points"], seeds["scores"]
    for name, count in (("cluster", PEERS_SEEDS), ("cluster_20k", SEEDS)):
        with timed(name):
            moved = mean_shift(points[:count], scores[:count], bandwidth_angstrom=75.0, max_iterations=150)
            dense_clusters(moved, radius=30.0, min_samples=5)
    found["cluster_20k_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def warm_up() -> None:
    """Compile what numba compiles."""
    from membrain_cloud.geometry import Mesh
    from membrain_cloud.mesh.spectral.heat_method import HeatDistances
    from membrain_cloud.mesh.spectral.operators import surface_operators
    from membrain_cloud.picking.clustering import mean_shift

    corner = np.arange(19 * 20).reshape(19, 20)[:, :-1].ravel()
    sheet = np.concatenate([corner[:, None] + [0, 1, 20], corner[:, None] + [1, 21, 20]])
    places = np.stack([np.arange(400) % 20, np.arange(400) // 20, np.zeros(400)], axis=1)
    surface_operators(places, sheet, np.tile([0.0, 0.0, 1.0], (400, 1)), eigenpairs=16, length_unit_angstrom=1.0)
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    HeatDistances(Mesh(corners, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)))
    mean_shift(corners, np.ones(4), bandwidth_angstrom=3.0, max_iterations=2)


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, env=os.environ | THREADS, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        sys.exit(f"{' '.join(command)[:200]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[0].removeprefix("RESULT")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="our side alone")
    parser.add_argument("--clustering", action="store_true", help="memory of clustering alone")
    parser.add_argument("--no-clusters", action="store_true", help="without the peer's clustering, which takes minutes")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clustering:
        clustering()
        return
    if options.measure:
        sys.stdout.write("RESULT" + json.dumps(ours(Path(options.measure))) + "\n")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        # the peer first: both predict on its meshes
        theirs = (
            {} if options.ours else run([str(PEER), "-c", _PEER, name, str(0 if options.no_clusters else PEERS_SEEDS)])
        )
        mine = run([sys.executable, "-m", "benchmarks.picking", "--measure", name])
    sys.stdout.write(
        f"{mine['vertices']} vertices\n{'':<44}{'ours':>10}{'peer':>10}{'times':>8}   CPU: ours, peer, times\n"
    )
    for label, key, other in (
        ("masks -> meshes and profiles, s", "convert", "convert"),
        ("prediction, the release's patches, s", "predict", "predict"),
        ("the same, operators cached, s", "predict_cached", "predict_cached"),
        ("prediction, our patches, s", "predict_even", "predict"),
        ("the same, operators cached, s", "predict_even_cached", "predict_cached"),
        (f"clustering {PEERS_SEEDS} seeds, s", "cluster", "cluster"),
        (f"clustering {SEEDS} seeds, s", "cluster_20k", ""),
        (f"memory added by {SEEDS} seeds, MiB", "cluster_20k_mib", ""),
        ("peak memory, MiB", "peak_mib", "peak_mib"),
    ):
        peer = theirs.get(other)
        beside = "" if peer is None else f"{peer:10.2f}{peer / mine[key]:8.1f}"
        line = f"{label:<44}{mine[key]:10.2f}{beside or ' ' * 18}"
        if f"{key}_cpu" in mine:
            line += f"{mine[f'{key}_cpu']:10.2f}"
        if f"{other}_cpu" in theirs:
            line += f"{theirs[f'{other}_cpu']:10.2f}{theirs[f'{other}_cpu'] / mine[f'{key}_cpu']:8.1f}"
        sys.stdout.write(line.rstrip() + "\n")


if __name__ == "__main__":
    main()

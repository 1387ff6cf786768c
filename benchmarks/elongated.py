"""How well particles are placed and turned, on phantoms with truth: MemBrain v1's network with Mahalanobis targets.

    python -m benchmarks.elongated                 trains on 6 phantoms, scores on 3 others (minutes)
    python -m benchmarks.elongated --seed 101      another training: its start and the boxes it draws

The particles are dimers (two lobes side by side, about 2 : 1), at a signal-to-noise ratio of 1, true masks. Printed are
F1 at 63 Å, and the medians of the distance from the true centre, of the angle between normals, and of the in-plane
angle, known up to half a turn, of the picks that have one, and how many these are.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace

import numpy as np

from membrain_cloud.geometry import Picks
from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.metrics.overlap import pick_f1
from membrain_cloud.metrics.pick_placement import placement
from membrain_cloud.picking.pick_membrane import pick_membrane
from membrain_cloud.pipeline.settings import MeshSettings, PickSettings
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.pipeline.training.picker_data import Membrane, subvolume_example
from membrain_cloud.pipeline.training.picker_defaults import SUBVOLUME_TRAINING
from membrain_cloud.segmentation.instances import instance_boxes
from membrain_cloud.simulation.phantom import Phantom, PhantomSettings, make_phantom
from membrain_cloud.training.picking.subvolume_picker import train_subvolume_picker

RADIUS = 63.36
HALF_AXES = (72.0, 34.0, 40.0)
SETTINGS = PhantomSettings(shape=(96, 160, 160), particles=("dimer",), particles_per_um2=(400.0, 900.0))


def phantom(seed: int) -> Phantom:
    return make_phantom(seed, replace(SETTINGS, imaging=replace(SETTINGS.imaging, snr=1.0)))


def membranes(made: Phantom) -> list[Membrane]:
    found: list[Membrane] = []
    chosen = MeshSettings()
    for number, box in instance_boxes(made.instances, margin=2).items():
        mesh = mesh_membrane(
            made.instances[box.slices] == number,
            box,
            made.grid,
            smoothing_angstrom=chosen.smoothing_angstrom,
            vertex_area_angstrom2=chosen.vertex_area_angstrom2,
        )
        if mesh is not None:
            on_it = made.particles.select(made.particles.membrane_ids == number)
            found.append((mesh, lambda box, density=made.density: density[box.slices], made.grid, (on_it,)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=6, help="to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=SUBVOLUME_TRAINING.seed, help="of the training")
    options = parser.parse_args()
    chosen = replace(SUBVOLUME_TRAINING, epochs=options.epochs, seed=options.seed)
    training = replace(chosen, steps=60, samples=32, shapes=(HALF_AXES,))
    examples = [
        subvolume_example(*membrane, spacing_angstrom=training.spacing_angstrom)
        for seed in range(5000, 5000 + options.phantoms)
        for membrane in membranes(phantom(seed))
    ]
    started = time.perf_counter()
    picker = train_subvolume_picker(
        examples,
        settings=training,
        checkpoint=None,
        progress=lambda epoch, loss: sys.stderr.write(f"epoch {epoch}: loss {loss:.2f}\n") and None,
    )
    sys.stdout.write(f"{len(examples)} membranes, trained in {time.perf_counter() - started:.0f} s\n")
    found: list[Picks] = []
    true: list[Picks] = []
    for seed in range(6000, 6003):
        for number, (mesh, read, grid, particles) in enumerate(membranes(phantom(seed))):
            picks, _ = pick_membrane(
                mesh,
                read,
                grid,
                picker,
                outside=0.0,
                partition_vertices=None,
                clustering=make_clustering(PickSettings()),
                membrane_id=1,
            )
            away = np.array([1e5 * (seed - 6000), 1e6 * number, 0.0])  # membranes are scored each by itself
            found.append(replace(picks[0], positions=picks[0].positions + away))
            true.append(replace(particles[0], positions=particles[0].positions + away))
    show(found, true)


def show(found: list[Picks], true: list[Picks]) -> None:
    positions = [np.concatenate([picks.positions for picks in part]) for part in (found, true)]
    score = pick_f1(positions[0], positions[1], RADIUS)
    told = placement(together(found), together(true), RADIUS)
    sys.stdout.write(f"{len(positions[1])} particles, {len(positions[0])} picks: F1 {score.score:.3f}\n")
    for name, value in asdict(told).items():
        sys.stdout.write(f"{name}: {'-' if value is None else round(value, 1)}\n")
    known = sum(int(picks.in_plane.sum()) for picks in found if picks.in_plane is not None)
    sys.stdout.write(f"picks with an in-plane angle: {known}\n")


def together(parts: list[Picks]) -> Picks:
    known = [picks.in_plane for picks in parts if picks.in_plane is not None]
    return Picks(
        np.concatenate([picks.positions for picks in parts]),
        np.concatenate([picks.frames() for picks in parts]),
        in_plane=np.concatenate(known) if len(known) == len(parts) else None,
    )


if __name__ == "__main__":
    main()

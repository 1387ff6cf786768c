"""Copick itself, in whichever version runs this file: it writes a project, or says what it finds in one.

    PYTHON copick_program.py write CONFIG SEED      add a tomogram, two masks, picks and a mesh to run TS_1
    PYTHON copick_program.py read CONFIG            print what copick lists and reads, as JSON

A program by itself, so that copick 1.31, which needs zarr below 3, can have an environment of its own. It imports
nothing of this project. `benchmarks/readers.sh copick1` makes that environment.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

COPICK_1 = Path(__file__).parents[2] / "benchmarks" / ".readers" / "copick1" / "bin" / "python"
WHY_ABSENT = "copick 1.31 has no environment here: benchmarks/readers.sh copick1"
SHAPE = (20, 24, 28)


def volumes(seed: int) -> dict[str, np.ndarray]:
    """Return what `write` writes: random densities, a sparse mask, and a mask without a voxel."""
    rng = np.random.default_rng(seed)
    density = rng.normal(size=SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 5:12, 6:20] = 1
    return {"tomogram": density, "mask": mask, "empty": np.zeros(SHAPE, np.uint8)}


def write(config: str, seed: int) -> None:
    """Add one of everything to run TS_1, as user `other` in session 1."""
    import copick
    import trimesh

    data = volumes(seed)
    run = copick.from_file(config).new_run("TS_1", exist_ok=True)
    tomogram = run.new_voxel_spacing(10.0, exist_ok=True).new_tomogram("wbp")
    tomogram.from_numpy(data["tomogram"])
    for name, session in (("mask", "1"), ("empty", "2")):
        labels = run.new_segmentation(10.0, "membrane", session, False, user_id="other")
        labels.from_numpy(data[name])
    picks = run.new_picks("psii", "1", user_id="other")
    picks.from_numpy(np.array([[30.0, 40.0, 50.0], [60.0, 70.0, 80.0]]))
    picks.store()
    mesh = run.new_mesh("membrane", "1", user_id="other")
    mesh.mesh = trimesh.Scene(trimesh.creation.box((50.0, 60.0, 70.0)))
    mesh.store()


def read(config: str) -> dict[str, Any]:
    """Return names and digests of everything that copick finds."""
    import copick

    root = copick.from_file(config)
    found: dict[str, Any] = {"objects": sorted(each.name for each in root.pickable_objects), "runs": {}}
    for run in root.runs:
        found["runs"][run.name] = {
            "tomograms": {
                f"{tomogram.tomo_type}@{spacing.voxel_size:g}": digest(tomogram.numpy())
                for spacing in run.voxel_spacings
                for tomogram in spacing.tomograms
            },
            "segmentations": {
                f"{each.name}:{each.user_id}/{each.session_id}@{each.voxel_size:.3f}"
                + ("?instance=true" if getattr(each, "is_instance", False) else ""): digest(each.numpy())
                for each in [*run.segmentations, *_instances(run)]
            },
            "picks": {
                f"{each.pickable_object_name}:{each.user_id}/{each.session_id}": each.numpy()[0].tolist()
                for each in run.picks
            },
            "meshes": {
                f"{each.pickable_object_name}:{each.user_id}/{each.session_id}": sorted(
                    len(geometry.faces) for geometry in each.mesh.geometry.values()
                )
                for each in run.meshes
            },
        }
    return found


def _instances(run: Any) -> list[Any]:
    listed = {each.session_id + str(getattr(each, "is_instance", False)) for each in run.segmentations}
    return [each for each in run.get_segmentations(is_instance=True) if each.session_id + "True" not in listed]


def digest(values: np.ndarray) -> str:
    """Return shape and sha256 of an array as float32: copick's versions store labels differently."""
    values = np.ascontiguousarray(values, np.float32)
    return f"{values.shape} {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
    else:
        print(json.dumps(read(sys.argv[2])))

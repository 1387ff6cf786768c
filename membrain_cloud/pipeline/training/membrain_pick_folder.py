"""Training data in MemBrain-pick's layout: a folder with `train` and `val`, and at will `test`.

Each has two files for every membrane: `NAME.h5`, its mesh and densities as `membrain_pick convert` writes them, and
`NAME.star`, its particles. With several classes of particles each class has a file of its own: `NAME_CLASS.star`. All
files are checked before training begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.errors import InputError, ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.formats.meshes import StoredMesh, read_h5
from membrain_cloud.store.formats.star import read_star_picks
from membrain_cloud.training.picking.examples import PickingExample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PARTS = ("train", "val", "test")

OFFSETS_ANGSTROM = tuple(-22.5 + 2.5 * k for k in range(20))
"""Where `membrain_pick convert` samples by default, along outward normals: -25 to 22.5 Å along its inward normals."""

REACH_ANGSTROM = 80.0
"""A particle farther from its membrane's mesh is not on it."""

# Least mean |cosine| between z axes and normals for orientations that follow the membrane.
_ALIGNED = 0.7


def read_training_folder(
    folder: str, *, voxel_spacing_angstrom: float | None, classes: Sequence[str]
) -> dict[str, list[PickingExample]]:
    """Read and check the membranes of a folder.

    Parameters
    ----------
    folder : str
        The folder.
    voxel_spacing_angstrom : float or None
        Size of the voxels in which meshes and particles are measured, in Å; the files do not tell it.
    classes : sequence of str
        Classes of particles; empty for a single class without a name.

    Returns
    -------
    parts : dict of str to list of PickingExample
        The membranes of "train", "val" and, if it exists, "test".

    Raises
    ------
    UsageError, ProjectError, VoxelSpacingError, InputError
        If the layout is different, files cannot be read or are incomplete, particles lie on no mesh, or a membrane is
        in two parts. The error names the file.
    """
    files = {
        part: _mesh_files(Path(folder) / part) for part in PARTS if part != "test" or (Path(folder) / part).is_dir()
    }
    examples = {part: [_example(file, voxel_spacing_angstrom, classes) for file in of] for part, of in files.items()}
    for part in ("train", "val"):
        if not any(len(example.particles) for example in examples[part]):
            raise InputError(f"{folder}/{part}: there is not one particle", f"add particles to the files in {part}")
    _refuse_repeated(files, examples)
    return examples


def _mesh_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder", "give a folder with `train` and `val`, each with NAME.h5 and NAME.star"
        )
    meshes = sorted(folder.glob("*.h5"))
    if not meshes:
        raise InputError(
            f"{folder} has no .h5 file",
            "`membrain_pick convert` writes them; to train on a project's meshes and picks, name the project instead",
        )
    return meshes


def _example(file: Path, spacing: float | None, classes: Sequence[str]) -> PickingExample:
    stored = read_h5(str(file), voxel_spacing_angstrom=spacing)
    profiles = _outward_profiles(stored, file)
    names = [f"{file.stem}.star"] if not classes else [f"{file.stem}_{kind}.star" for kind in classes]
    files = [file.with_name(name) for name in names]
    if not any(star.exists() for star in files):
        raise InputError(
            f"{file} has no {' nor '.join(names)} beside it", "for a membrane without particles, add an empty table"
        )
    each = [_particles(star, stored, spacing) if star.exists() else Picks(np.zeros((0, 3))) for star in files]
    kinds = np.concatenate([np.full(len(picks), kind, np.int64) for kind, picks in enumerate(each)])
    return PickingExample(stored.mesh, profiles, join_particles(each), kinds if classes else None)


def _outward_profiles(stored: StoredMesh, file: Path) -> NDArray[np.float32]:
    """Return the profiles (V, 20) along outward normals; the file has them along inward ones."""
    if stored.profiles is None:
        raise InputError(f"{file} has no normal_values", "files of `predict` have no densities: use files of `convert`")
    expected = (len(stored.mesh.vertices), len(OFFSETS_ANGSTROM))
    if stored.profiles.shape != expected:
        raise InputError(
            f"{file}: normal_values are {stored.profiles.shape}, not {expected}",
            "convert with the default step numbers (-10 10), or train on the meshes of a project",
        )
    if not len(stored.mesh.faces):
        raise InputError(f"{file}: the mesh has no faces", "convert the membrane again")
    return np.ascontiguousarray(stored.profiles[:, ::-1])


def _particles(star: Path, stored: StoredMesh, spacing: float | None) -> Picks:
    """Return the particles on the mesh. InputError if the file has particles, but none on the mesh."""
    # Meshes with scores come from `predict`, whose particle tables are in Å.
    unit = spacing if stored.scores is None else 1.0
    try:
        picks = read_star_picks(str(star))
    except VoxelSpacingError:
        picks = read_star_picks(str(star), voxel_spacing_angstrom=unit)
    if not len(picks):
        return Picks(np.zeros((0, 3)))
    distance, nearest = cKDTree(stored.mesh.vertices).query(picks.positions)
    on_it = distance <= REACH_ANGSTROM
    if not on_it.any():
        raise InputError(
            f"{star}: none of {len(picks)} particles lies within {REACH_ANGSTROM:g} Å of its mesh (the nearest "
            f"{distance.min():.0f} Å away)",
            "coordinates must be in the voxels of the mesh: check the voxel spacing",
        )
    normals = stored.mesh.vertex_normals()[nearest]
    orientations = None if picks.orientations is None else _aligned_orientations(picks.orientations, normals)
    return Picks(picks.positions, orientations).select(on_it)


def _aligned_orientations(
    orientations: NDArray[np.float64], normals: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the rotations (N, 3, 3) or their inverses, whichever align z axes with normals; None if neither does.

    RELION and Surforama write inverse angles under the same names.
    """
    both = (orientations, orientations.transpose(0, 2, 1))
    cosines = [float(np.abs((frames[:, :, 2] * normals).sum(axis=1)).mean()) for frames in both]
    best = int(np.argmax(cosines))
    return both[best] if cosines[best] >= _ALIGNED else None


def join_particles(particles: Sequence[Picks]) -> Picks:
    """Join the particles of several classes.

    Parameters
    ----------
    particles : sequence of Picks
        The particles of each class.

    Returns
    -------
    joined : Picks
        All particles in their order. They have orientations if those of every class with particles have.
    """
    filled = [picks for picks in particles if len(picks)]
    orientations = [picks.orientations for picks in filled if picks.orientations is not None]
    return Picks(
        np.concatenate([np.zeros((0, 3)), *(picks.positions for picks in filled)]),
        np.concatenate(orientations) if orientations and len(orientations) == len(filled) else None,
    )


def _refuse_repeated(files: dict[str, list[Path]], examples: dict[str, list[PickingExample]]) -> None:
    first: dict[bytes, Path] = {}
    for part, membranes in examples.items():
        for file, example in zip(files[part], membranes, strict=True):
            mesh: Mesh = example.mesh
            other = first.setdefault(mesh.vertices.tobytes(), file)
            if other is not file:
                raise ProjectError(
                    f"{file} is the same membrane as {other}", "keep each membrane in one of train, val and test"
                )

"""Training data in MemBrain-pick's layout: a folder with `train` and `val`, in each for every membrane `NAME.h5`, its
mesh and densities as `membrain_pick convert` writes them, and `NAME.star`, its particles.

Of several kinds of particles each has a file of its own: `NAME_KIND.star`. Everything is looked at before training
begins.
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
"""Where along outward normals `membrain_pick convert` samples, by its default: -25 to 22.5 Å along its inward ones."""

REACH_ANGSTROM = 80.0
"""A particle whose centre lies farther from its membrane's mesh is not on it."""

_SAME_LINE = 0.7  # mean |cosine| between z axes and normals of angles that mean what they should


def read_training_folder(
    folder: str, *, voxel_spacing_angstrom: float | None, classes: Sequence[str]
) -> dict[str, list[PickingExample]]:
    """The membranes of `train`, `val` and, where there is one, `test`, each by name.

    voxel_spacing_angstrom : of the voxels that meshes and particles count; the files do not say it.
    classes : kinds of particles; empty: one kind without a name.

    Raises UsageError, ProjectError, VoxelSpacingError or InputError, each naming the file, for a folder of another
    layout, files that cannot be read or lack something, particles that lie on no mesh, and a membrane that is in two
    parts.
    """
    found = {
        part: _membranes(Path(folder) / part) for part in PARTS if part != "test" or (Path(folder) / part).is_dir()
    }
    made = {part: [_example(file, voxel_spacing_angstrom, classes) for file in files] for part, files in found.items()}
    for part in ("train", "val"):
        if not any(len(example.particles) for example in made[part]):
            raise InputError(f"{folder}/{part}: there is not one particle", f"add particles to the files in {part}")
    _refuse_repeated(found, made)
    return made


def _membranes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder", "give a folder with `train` and `val`, each with NAME.h5 and NAME.star"
        )
    meshes = sorted(folder.glob("*.h5"))
    if not meshes:
        raise InputError(
            f"{folder} has no .h5 file",
            "`membrain_pick convert` writes them; a project's meshes and picks are trained on with --project",
        )
    return meshes


def _example(file: Path, spacing: float | None, classes: Sequence[str]) -> PickingExample:
    stored = read_h5(str(file), voxel_spacing_angstrom=spacing)
    profiles = _profiles(stored, file)
    names = [f"{file.stem}.star"] if not classes else [f"{file.stem}_{kind}.star" for kind in classes]
    files = [file.with_name(name) for name in names]
    if not any(star.exists() for star in files):
        raise InputError(
            f"{file} has no {' nor '.join(names)} beside it", "an empty particle table says: there is none"
        )
    each = [_particles(star, stored, spacing) if star.exists() else Picks(np.zeros((0, 3))) for star in files]
    kinds = np.concatenate([np.full(len(picks), kind, np.int64) for kind, picks in enumerate(each)])
    return PickingExample(stored.mesh, profiles, together(each), kinds if classes else None)


def _profiles(stored: StoredMesh, file: Path) -> NDArray[np.float32]:
    """Outward: the file has them inward."""
    if stored.profiles is None:
        raise InputError(f"{file} has no normal_values", "a file of `predict` has no densities: give one of `convert`")
    wanted = (len(stored.mesh.vertices), len(OFFSETS_ANGSTROM))
    if stored.profiles.shape != wanted:
        raise InputError(
            f"{file}: normal_values are {stored.profiles.shape}, not {wanted}",
            "convert with the default step numbers (-10 10), or train on the meshes with --project",
        )
    if not len(stored.mesh.faces):
        raise InputError(f"{file}: the mesh has no faces", "convert the membrane again")
    return np.ascontiguousarray(stored.profiles[:, ::-1])


def _particles(star: Path, stored: StoredMesh, spacing: float | None) -> Picks:
    """Those on the mesh; InputError where there are some and none is."""
    # meshes with scores come from `predict`, which counts Å in its particle tables as well
    unit = spacing if stored.scores is None else 1.0
    try:
        picks = read_star_picks(str(star))
    except VoxelSpacingError:
        picks = read_star_picks(str(star), voxel_spacing_angstrom=unit)
    if not len(picks):
        return Picks(np.zeros((0, 3)))
    away, nearest = cKDTree(stored.mesh.vertices).query(picks.positions)
    on_it = away <= REACH_ANGSTROM
    if not on_it.any():
        raise InputError(
            f"{star}: none of {len(picks)} particles lies within {REACH_ANGSTROM:g} Å of its mesh (the nearest "
            f"{away.min():.0f} Å away)",
            "coordinates must count the same voxels as the mesh's; check --voxel-spacing",
        )
    normals = stored.mesh.vertex_normals()[nearest]
    turned = None if picks.orientations is None else _agreeing(picks.orientations, normals)
    return Picks(picks.positions, turned).select(on_it)


def _agreeing(orientations: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Orientations as they are or inverted, as z axes lie along the normals; None where neither does.

    RELION and Surforama write inverse angles under the same names.
    """
    both = (orientations, orientations.transpose(0, 2, 1))
    cosines = [float(np.abs((turned[:, :, 2] * normals).sum(axis=1)).mean()) for turned in both]
    best = int(np.argmax(cosines))
    return both[best] if cosines[best] >= _SAME_LINE else None


def together(particles: Sequence[Picks]) -> Picks:
    """All particles in their order; oriented where every part with particles is."""
    filled = [picks for picks in particles if len(picks)]
    turned = [picks.orientations for picks in filled if picks.orientations is not None]
    return Picks(
        np.concatenate([np.zeros((0, 3)), *(picks.positions for picks in filled)]),
        np.concatenate(turned) if turned and len(turned) == len(filled) else None,
    )


def _refuse_repeated(files: dict[str, list[Path]], made: dict[str, list[PickingExample]]) -> None:
    seen: dict[bytes, Path] = {}
    for part, examples in made.items():
        for file, example in zip(files[part], examples, strict=True):
            mesh: Mesh = example.mesh
            other = seen.setdefault(mesh.vertices.tobytes(), file)
            if other is not file:
                raise ProjectError(
                    f"{file} is the same membrane as {other}", "keep each membrane in one of train, val and test"
                )

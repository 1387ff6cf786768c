"""Damage small files of every kind and read them: run as a script, in a process whose memory is bounded.

`python fuzz.py FOLDER SECONDS SEED` prints a line for each reader that fails in another way than by an error of ours,
and ends with exit code 1 if there is one.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

EXTREMES = [
    struct.pack("<i", 0), struct.pack("<i", -1), struct.pack("<i", 2**31 - 1), struct.pack(">i", 2**31 - 1),
    struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), struct.pack("<d", 1e300), b"\x00" * 8,
    b"\xff" * 8, struct.pack("<q", 2**62), b"nan", b"1e999", b"-1", b"",
]  # fmt: skip
# Beyond what the process holds when all libraries are loaded; the files are a few kilobytes.
MEMORY_BYTES = 3 << 29


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with a few bytes changed, cut, repeated, or a field of the header at an extreme."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = len(data)
        place = int(rng.integers(0, max(size, 1)))
        kind = int(rng.integers(0, 5))
        if kind == 0 and size:
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            value = EXTREMES[int(rng.integers(0, len(EXTREMES)))]
            place = int(rng.integers(0, max(1, min(size, 1024)))) // 4 * 4
            data[place : place + len(value)] = value
        elif kind == 3:
            data[place:place] = data[place : place + int(rng.integers(1, 64))]
        elif size:
            data[place] = int(rng.integers(0, 256))
    return bytes(data)


def seeds(folder: Path) -> dict[str, Callable[[str], Any]]:  # noqa: PLR0915 - one line a format
    """Write a good file of each kind, and return the readers of their names."""
    import emfile
    import h5py
    import mrcfile
    import nibabel
    import nrrd
    import tifffile
    import torch
    import trimesh
    import zarr

    from membrain_cloud.geometry import Box, Picks
    from membrain_cloud.networks.picking.picker import load_picker
    from membrain_cloud.networks.segmentation.segmenter import load_network
    from membrain_cloud.store.formats import meshes, motl, spectra, star, star_particles
    from membrain_cloud.store.formats.copick_files import picks_from_json, picks_to_json
    from membrain_cloud.store.formats.label_volume import check_labels
    from membrain_cloud.store.formats.volume_reader import open_volume_file, read_header
    from membrain_cloud.store.refs import ObjectRef

    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.float32)
    picks = Picks(np.arange(12.0).reshape(4, 3), np.tile(np.eye(3), (4, 1, 1)))
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(values)
        file.voxel_size = 10.0
    (folder / "b.mrc.gz").write_bytes(gzip.compress((folder / "a.mrc").read_bytes()))
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([10, 10, 10, 1])), folder / "c.nii")
    nibabel.save(nibabel.Nifti1Image(values.T.astype(np.uint8), np.diag([10, 10, 10, 1])), folder / "d.nii.gz")
    nrrd.write(str(folder / "e.nrrd"), values, {"encoding": "raw"})
    nrrd.write(str(folder / "f.nrrd"), values, {"encoding": "gzip"})
    tifffile.imwrite(folder / "g.tif", values, photometric="minisblack")
    tifffile.imwrite(folder / "h.tif", values, compression="zlib", photometric="minisblack")
    np.save(folder / "i.npy", values)
    star.write_star(str(folder / "j.star"), picks, voxel_spacing_angstrom=10.0, tomogram="T", flavour="relion4")
    motl.write_stopgap(str(folder / "k.star"), picks, voxel_spacing_angstrom=10.0, tomogram_number=1)
    motl.write_motive_list(str(folder / "l.em"), picks, voxel_spacing_angstrom=10.0, tomogram_number=1)
    (folder / "m.csv").write_text("x,y,z,score\n1,2,3,0.5\n4,5,6,0.25\n")
    sphere = trimesh.creation.icosphere(1)
    sphere.export(folder / "n.obj")
    sphere.export(folder / "o.glb")
    with h5py.File(folder / "p.h5", "w") as stored:
        stored["points"], stored["faces"] = np.array(sphere.vertices), np.array(sphere.faces)
        stored["scores"] = np.zeros(len(sphere.vertices))
        stored["cluster_centers"] = np.zeros((2, 3))
    (folder / "q.json").write_bytes(picks_to_json(picks, ObjectRef("r", "o", "u", "1")))
    (folder / "r.tsv").write_text("freq\tintensity\n0\t1.0\n1\t0.5\n")
    torch.save({"state_dict": {"_model.input_block.conv1.conv.weight": torch.zeros(2, 1, 3, 3, 3)}}, folder / "s.ckpt")
    torch.save({"state_dict": {"_net.x": torch.zeros(3)}}, folder / "t.ckpt")
    zarr.create_array(str(folder / "u.zarr"), data=values, chunks=(3, 3, 3), zarr_format=2)
    assert emfile
    assert json

    def volume(path: str) -> None:
        read_header(path, check_size=True)
        with open_volume_file(path) as file:
            file.read(Box((0, 0, 0), file.shape))
            check_labels(file)

    readers: dict[str, Callable[[str], Any]] = dict.fromkeys("abcdefghiu", volume)
    readers |= {
        "j": lambda path: (star.read_star_picks(path), star_particles.read_star_particles(path)),
        "k": lambda path: motl.is_stopgap(path) and motl.read_stopgap(path, voxel_spacing_angstrom=10.0),
        "l": lambda path: motl.read_motive_list(path, voxel_spacing_angstrom=10.0),
        "m": lambda path: star.read_csv_picks(path, voxel_spacing_angstrom=10.0),
        **{name: lambda path: meshes.read_meshes(path, voxel_spacing_angstrom=10.0) for name in "nop"},
        "q": lambda path: picks_from_json(Path(path).read_bytes(), path),
        "r": spectra.read_spectrum,
        "s": load_network,
        "t": load_picker,
    }
    return readers


def place_damaged(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Write a damaged copy of a file, or of a folder of which one file is damaged."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        victim = files[int(rng.integers(0, len(files)))]
        victim.write_bytes(damaged(victim.read_bytes(), rng))
    else:
        target.write_bytes(damaged(source.read_bytes(), rng))


def main(folder: str, seconds: float, seed: int) -> int:
    """Fuzz every reader in turn until the time is used up; return the exit code."""
    from membrain_cloud.errors import MembrainCloudError

    good, bad = Path(folder, "good"), Path(folder, "bad")
    readers = seeds(good)
    bad.mkdir(exist_ok=True)
    for name in sorted(good.iterdir()):
        try:
            readers[name.name[0]](str(name))
        except MembrainCloudError as error:
            if name.suffix != ".ckpt":
                raise RuntimeError(f"{name} is refused undamaged") from error
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    end, round_, failed, slowest = time.monotonic() + seconds, 0, {}, 0.0
    while time.monotonic() < end:
        for source in sorted(good.iterdir()):
            rng = np.random.default_rng((seed, round_, ord(source.name[0])))
            target = bad / source.name
            place_damaged(source, target, rng)
            begin = time.monotonic()
            try:
                readers[source.name[0]](str(target))
            except MembrainCloudError:
                pass
            except BaseException as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                failed.setdefault((source.name, type(error).__name__, frame.name), f"round {round_}: {error}")
            slowest = max(slowest, time.monotonic() - begin)
        round_ += 1
    for key, message in failed.items():
        print(*key, message[:300])
    print(f"{round_} rounds of {len(readers)} readers, the slowest read took {slowest:.1f} s")
    return 1 if failed or slowest > 10.0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))

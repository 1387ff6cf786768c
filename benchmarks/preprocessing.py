"""Preprocessing of files, ours and MemBrain-seg's: time and peak memory of each verb, each in a process of its own.

    python -m benchmarks.preprocessing                     ours, and the peer's where benchmarks/.peers is (peers.sh)
    python -m benchmarks.preprocessing --large             ours on 512 x 1024 x 1024 voxels (2 GB), too

The peer's functions are called without its command line, which does not start where typer no longer brings click.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.store.formats.volume_reader import open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter

PEER = Path(__file__).parent / ".peers" / "bin" / "python"
SMALL, LARGE, SPACING = (256, 384, 384), (512, 1024, 1024), 7.84
VERBS = {
    "match-pixel-size": ["--target-spacing", "10"],
    "extract-spectrum": [],
    "match-spectrum": ["--target", "TARGET"],
    "deconvolve": [],
}
# MemBrain-seg's own functions, called as its commands call them, with its defaults.
PEER_CODE = {
    "match-pixel-size": "from membrain_seg.tomo_preprocessing.pixel_size_matching.match_pixel_size import *\n"
    "match_pixel_size(i, o, None, 10.0, False)",
    "extract-spectrum": "from membrain_seg.tomo_preprocessing.amplitude_spectrum_matching.extract_spectrum import *\n"
    "from membrain_seg.segmentation.dataloading.data_utils import load_tomogram\n"
    "extract_spectrum_from_file(load_tomogram(i).data, o)",
    "match-spectrum": "from membrain_seg.tomo_preprocessing.amplitude_spectrum_matching.match_spectrum import *\n"
    "match_amplitude_spectrum_for_files(i, t, o, False, 10, True, 50)",
    "deconvolve": "from membrain_seg.tomo_preprocessing.deconvolution.deconvolve import *\n"
    "deconvolve(i, o, skip_lowpass=False)",
}
PEER_HEAD = (
    "import sys, types\n"
    "for name in ('cli', 'amplitude_spectrum_matching._cli', 'deconvolution._cli', 'pixel_size_matching._cli'):\n"
    "    stub = types.ModuleType(name)\n"
    "    stub.__getattr__ = lambda _: None\n"
    "    sys.modules['membrain_seg.tomo_preprocessing.' + name] = stub\n"
    "i, o, t = sys.argv[1:]\n"
)


def make_volume(path: Path, shape: Zyx) -> None:
    """Blobs in noise, plane by plane."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[: shape[1], : shape[2]]
    with VolumeFileWriter(str(path), shape, SPACING, "float32") as writer:
        for z in range(shape[0]):
            plane = rng.standard_normal(shape[1:], np.float32)
            plane += 100 + 3 * np.sin(y / 9 + z / 7) * np.cos(x / 11)
            writer.write(Box((z, 0, 0), (z + 1, *shape[1:])), plane[None].astype(np.float32))


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a command. RuntimeError where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {said[-2000:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def line(who: str, what: str, figures: tuple[float, float, float]) -> None:
    wall, cpu, peak = figures
    sys.stdout.write(f"{what:<18} {who:<28} {wall:8.1f} s {cpu:8.1f} CPU-s {peak:8.0f} MiB\n")
    sys.stdout.flush()


def bench(folder: Path, shape: Zyx, memory_gib: float, verbs: list[str], *, peer: bool) -> None:
    volume, target = folder / "volume.mrc", folder / "target.tsv"
    make_volume(volume, shape)
    sys.stdout.write(f"{' x '.join(map(str, shape))} float32, {volume.stat().st_size / 1e9:.2f} GB\n")
    ours = [sys.executable, "-m", "membrain_cloud", "preprocess"]
    limits = ["--memory-gib", str(memory_gib), "--scratch", str(folder), "--overwrite"]
    if "match-spectrum" in verbs:
        measured([*ours, "extract-spectrum", str(volume), "--output", str(target), *limits])
    for verb in verbs:
        output = str(folder / ("ours.tsv" if verb == "extract-spectrum" else "ours.mrc"))
        extra = [str(target) if word == "TARGET" else word for word in VERBS[verb]]
        command = [*ours, verb, str(volume), "--output", output, *extra, *limits]
        line(f"ours, --memory-gib {memory_gib:g}", verb, measured(command))
        if peer:
            theirs = str(folder / ("peer.tsv" if verb == "extract-spectrum" else "peer.mrc"))
            code = [str(PEER), "-c", PEER_HEAD + PEER_CODE[verb], str(volume), theirs, str(target)]
            line("membrain-seg 0.0.10", verb, measured(code))
            if verb != "extract-spectrum":
                compare(output, theirs)


def compare(ours: str, theirs: str) -> None:
    """Correlation of the results; they differ where membrain_cloud/membranes says why."""
    with open_volume_file(ours) as a, open_volume_file(theirs) as b:
        if a.shape != b.shape:
            sys.stdout.write(f"{'':<18} shapes {a.shape} and {b.shape}\n")
            return
        sums = np.zeros((3, 3))  # of 1, a and b with each other; by planes: a child's peak counts its parent's memory
        for z in range(a.shape[0]):
            plane = Box((z, 0, 0), (z + 1, *a.shape[1:]))
            both = np.stack([f.read(plane).ravel().astype(np.float64) for f in (a, b)])
            rows = np.vstack([np.ones(both.shape[1]), both])
            sums += rows @ rows.T
    sums /= sums[0, 0]
    covariance = sums - np.outer(sums[0], sums[0])
    correlation = covariance[1, 2] / np.sqrt(covariance[1, 1] * covariance[2, 2])
    sys.stdout.write(f"{'':<18} correlation of the results {correlation:.6f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--memory-gib", type=float, nargs="*", default=[2.0, 0.5])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, memory in enumerate(chosen.memory_gib):
            bench(Path(folder), SMALL, memory, chosen.only, peer=PEER.exists() and number == 0)
            (Path(folder) / "volume.mrc").unlink()
        if chosen.large:
            bench(Path(folder), LARGE, chosen.memory_gib[0], chosen.only, peer=False)


if __name__ == "__main__":
    main()

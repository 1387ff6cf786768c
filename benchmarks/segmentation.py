"""Segmentation beside `membrain segment`: same checkpoint, same machine, one run.

    benchmarks/peers.sh                                  once: the peer's environment
    python -m benchmarks.segmentation peer               exact and fast mode against the peer, 256 x 256 x 160 voxels
    python -m benchmarks.segmentation peer --small       the same on 128 x 128 x 96 voxels in windows of 64
    python -m benchmarks.segmentation fast               fast against exact mode: phantoms, the shipped weights
    python -m benchmarks.segmentation large              1000 x 1000 x 500 voxels in bounded memory, a small network
    python -m benchmarks.segmentation gpu                needs a GPU: throughput of the published architecture, the peer
                                                         beside it, and how busy several tomograms keep the GPU

Every side is a process of its own; time is the wall's, memory the process's peak.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch

from membrain_cloud.metrics.overlap import dice, surface_dice
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet, window_flops
from membrain_cloud.networks.segmentation.gpu import forward as fused
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.pipeline.models import model_sha256
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.inference import segment_in_memory, segmenter
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom

PEER = Path(__file__).parent / ".peers" / "bin"
OURS = Path(sys.executable).parent / "membrain-cloud"
# Made by the peer's own class, of its published width; random, since its weights are not for us to hand on.
_CHECKPOINT = """
import sys, torch
from membrain_seg.segmentation.networks.unet import SemanticSegmentationUnet
torch.manual_seed(0)
module = SemanticSegmentationUnet()
facts = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.2.0"}
torch.save({"state_dict": module.state_dict(), **facts}, sys.argv[1])
"""


# Between us and what is measured stands a small process: a child inherits its parent's peak of memory.
_LAUNCHER = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1], "wb"), stderr=subprocess.STDOUT)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss)
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command: wall seconds and peak GiB. Stops where it fails."""
    with tempfile.NamedTemporaryFile() as log:
        launched = [sys.executable, "-S", "-c", _LAUNCHER, log.name, *command]
        code, seconds, peak = subprocess.run(launched, check=True, capture_output=True, text=True).stdout.split()
        if code != "0":
            sys.exit(f"{' '.join(command)}\n{Path(log.name).read_text(errors='replace')[-3000:]}")
    return float(seconds), int(peak) / 2**20


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write(path: Path, volume: np.ndarray, spacing: float = 10.0) -> None:
    with mrcfile.new(path, overwrite=True) as made:
        made.set_data(volume)
        made.voxel_size = spacing


def read(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as opened:
        return np.array(opened.data)


def beside_the_peer(folder: Path, shape: tuple[int, int, int], window: int, *, mirrors: bool) -> None:
    checkpoint, tomogram = folder / "random.ckpt", folder / "tomogram.mrc"
    subprocess.run([PEER / "python", "-c", _CHECKPOINT, checkpoint], check=True)
    write(tomogram, make_phantom(7, PhantomSettings(shape=shape)).density.astype(np.float32))
    size = f"{checkpoint.stat().st_size / 1e6:.0f} MB"
    say(
        f"{shape} voxels, windows of {window}, {'8 mirrors' if mirrors else 'no mirrors'}, the published width ({size})"
    )
    peer = folder / "peer"
    theirs = measured(
        [str(PEER / "membrain"), "segment", "--tomogram-path", str(tomogram), "--ckpt-path", str(checkpoint),
         "--out-folder", str(peer), "--store-probabilities", "--sliding-window-size", str(window),
         "--test-time-augmentation" if mirrors else "--no-test-time-augmentation"]
    )  # fmt: skip
    say(f"membrain segment      {theirs[0]:9.1f} s {theirs[1]:6.2f} GiB")
    expected = read(peer / "tomogram_scores.mrc")
    for mode in ("exact", "fast"):
        out = folder / mode
        ours = measured(
            [str(OURS), "segment", str(tomogram), "--model", str(checkpoint), "--output", str(out),
             "--set", f"segment.mode={mode}", "--set", f"segment.window={window}",
             *(["--no-mirrors"] if mode == "exact" and not mirrors else [])]
        )  # fmt: skip
        scores, label = read(out / "tomogram_scores.mrc"), read(out / "tomogram_segmented.mrc")
        differing = int(np.count_nonzero(label != (expected > 0)))
        say(
            f"{mode:<6} mode           {ours[0]:9.1f} s {ours[1]:6.2f} GiB   {ours[0] / theirs[0]:.3f} of its time, "
            f"{ours[1] / theirs[1]:.3f} of its memory; logits differ by {np.abs(scores - expected).max():.1e} at most, "
            f"{differing} of {label.size} voxels of the label; Dice {dice(label, expected > 0):.4f}"
        )


def fast_against_exact(seeds: list[int], model: str) -> None:
    """Phantoms that the shipped weights were not trained on; seconds without start-up, the network loaded."""
    for seed in seeds:
        phantom = make_phantom(seed, PhantomSettings())
        density, truth = phantom.density.astype(np.float32), phantom.labels > 0
        exact, exact_seconds = segmented(density, phantom.voxel_spacing_angstrom, "exact", model)
        fast, fast_seconds = segmented(density, phantom.voxel_spacing_angstrom, "fast", model)
        wall, cpu = (slow / quick for slow, quick in zip(exact_seconds, fast_seconds, strict=True))
        say(
            f"phantom {seed}: Dice with exact mode {dice(fast, exact):.4f}, Surface-Dice "
            f"{surface_dice(fast, exact).score:.4f}; with the truth: exact {surface_dice(exact, truth).score:.4f}, "
            f"fast {surface_dice(fast, truth).score:.4f}; exact {exact_seconds[0]:.1f} s "
            f"({exact_seconds[1]:.1f} s of CPU), fast {fast_seconds[0]:.1f} s ({fast_seconds[1]:.1f} s): "
            f"{wall:.1f} times faster ({cpu:.1f} in CPU time)"
        )


def segmented(
    density: np.ndarray, spacing_angstrom: float, mode: str, model: str = "membrain-cloud-small"
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the mask, and wall and CPU seconds; on a shared machine the second says more."""
    chosen = load_settings(None, [f"segment.mode={mode}", f"segment.model={model}"]).segment
    network = segmenter(chosen.model, model_sha256(chosen.model), chosen.effective_precision)
    network.predict(np.zeros((1, 1, network.window, network.window, network.window), np.float32))
    started, cpu = time.perf_counter(), time.process_time()
    mask = segment_in_memory(chosen, density, spacing_angstrom)
    return mask, (time.perf_counter() - started, time.process_time() - cpu)


def large(folder: Path, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 16))
    model = folder / "tiny.safetensors"
    save_segmenter(model, build_unet(architecture), architecture, {"window": 160, "voxel_spacing_angstrom": 10.0})
    rng = np.random.default_rng(0)
    tomogram = folder / "large.mrc"
    with mrcfile.new_mmap(tomogram, shape=shape, mrc_mode=2, overwrite=True) as made:
        for plane in made.data:
            plane[:] = rng.standard_normal(plane.shape, dtype=np.float32)
        made.voxel_size = 10.0
    seconds, peak = measured(
        [str(OURS), "segment", str(tomogram), "--model", str(model), "--output", str(folder / "out"),
         "--set", "segment.mirrors=no"]
    )  # fmt: skip
    say(f"{shape} voxels ({tomogram.stat().st_size / 1e9:.1f} GB), windows of 160: {seconds:.0f} s, {peak:.2f} GiB")


def gpu(folder: Path, shape: tuple[int, int, int]) -> None:
    """Measure the published architecture on a GPU: alone, beside the peer, and over several tomograms."""
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    throughput()
    torch.cuda.empty_cache()
    beside_the_peer_on_a_gpu(folder, shape)
    busy_share(folder, shape, count=4)


def throughput() -> None:
    """Windows a second of one forward pass, against the peak of a bf16 matrix product, in the same process."""
    from membrain_cloud.networks.segmentation.window_network import WindowNetwork

    device = torch.device("cuda")
    a = torch.randn((8192, 8192), device=device, dtype=torch.bfloat16)
    peak = 2 * 8192**3 / _cuda_seconds(lambda: a @ a)
    say(f"{torch.cuda.get_device_name()}: {peak / 1e12:.0f} TFLOP/s in bf16 matrix products")
    say("| network, window | arithmetic | way | at once | ms a window | M voxels/s | of the peak | first call |")
    say("|---|---|---|---|---|---|---|---|")
    published = UNetArchitecture((32, 64, 128, 256, 512, 1024), residual=True)
    shipped = UNetArchitecture((16, 32, 64, 128, 128))
    for name, architecture, edge, batches in (("published", published, 160, (1, 2)), ("shipped", shipped, 128, (1, 4))):
        torch.manual_seed(0)
        network = build_unet(architecture).eval().requires_grad_(False).to(device)
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for precision in ("float16", "bfloat16"):
            ours = WindowNetwork(network, device, precision)
            ways = {
                "plain": _plain(network, precision),
                "ours, all convolutions cuDNN's": _with_cudnn(ours),
                "ours": ours,
                "ours, recorded": WindowNetwork(network, device, precision, "graphs"),
            }
            for batch in batches:
                windows = torch.randn((batch, 1, edge, edge, edge), device=device)
                for way, look in ways.items():
                    started = time.perf_counter()
                    look(windows)
                    torch.cuda.synchronize()
                    first = time.perf_counter() - started
                    seconds = _cuda_seconds(functools.partial(look, windows)) / batch
                    share = window_flops(architecture, edge) / seconds / peak
                    say(
                        f"| {name}, {edge} | {precision} | {way} | {batch} | {seconds * 1e3:.2f} "
                        f"| {edge**3 / seconds / 1e6:.0f} | {share:.1%} | {first:.1f} s |"
                    )
        del network, ours, ways
        torch.cuda.empty_cache()


def _plain(network: torch.nn.Module, precision: str) -> Any:
    """PyTorch's own forward pass under autocast, as the peer runs it."""

    def look(windows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cuda", getattr(torch, precision)):
            logits: torch.Tensor = network(windows)
        return logits.float()

    return look


def _with_cudnn(look: Any) -> Any:
    def looked(windows: torch.Tensor) -> torch.Tensor:
        own, fused.OWN_CONVOLUTIONS_TO = fused.OWN_CONVOLUTIONS_TO, 0
        try:
            logits: torch.Tensor = look(windows)
        finally:
            fused.OWN_CONVOLUTIONS_TO = own
        return logits

    return looked


def beside_the_peer_on_a_gpu(folder: Path, shape: tuple[int, int, int]) -> None:
    """Compare whole commands, start included.

    Fast mode takes further mirrors while voxels are undecided: with random weights all are, in every window; with the
    output's bias at -4 none is. Trained weights lie between.
    """
    random, decided, tomogram = folder / "random.ckpt", folder / "decided.ckpt", folder / "tomogram.mrc"
    subprocess.run([PEER / "python", "-c", _CHECKPOINT, random], check=True)
    facts = torch.load(random, weights_only=True)
    facts["state_dict"]["_model.output_block.conv.conv.bias"] -= 4.0
    torch.save(facts, decided)
    volume = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    volume[:, ::40] -= 1.5
    write(tomogram, volume)
    theirs = measured(
        [str(PEER / "membrain"), "segment", "--tomogram-path", str(tomogram), "--ckpt-path", str(random),
         "--out-folder", str(folder / "peer"), "--store-probabilities", "--test-time-augmentation"]
    )  # fmt: skip
    voxels = float(np.prod(shape)) / 1e6
    say(f"{shape} voxels, windows of 160, 8 mirrors, whole commands")
    say(f"membrain segment: {theirs[0]:.1f} s, {voxels / theirs[0]:.2f} M voxels/s, {theirs[1]:.2f} GiB")
    expected = read(folder / "peer" / "tomogram_scores.mrc")
    for mode, checkpoint in (("exact", random), ("fast", random), ("fast", decided)):
        out = folder / f"{mode}-{checkpoint.stem}"
        ours = measured(
            [str(OURS), "segment", str(tomogram), "--model", str(checkpoint), "--output", str(out),
             "--set", f"segment.mode={mode}"]
        )  # fmt: skip
        line = f"{mode} mode, {checkpoint.stem}: {ours[0]:.1f} s, {voxels / ours[0]:.2f} M voxels/s, {ours[1]:.2f} GiB"
        line += f", {theirs[0] / ours[0]:.1f} times as fast"
        if checkpoint is random:
            scores = read(out / "tomogram_scores.mrc")
            apart = np.linalg.norm(scores - expected) / np.linalg.norm(expected)
            line += (
                f"; logits differ by {apart:.1e} of their norm, {np.mean((scores > 0) != (expected > 0)):.1e} of voxels"
            )
        say(line)


def busy_share(folder: Path, shape: tuple[int, int, int], count: int) -> None:
    """How busy the GPU is while several tomograms are segmented by one command, start, reading and writing included.

    NVML's utilisation five times a second; the checkpoints are those of `beside_the_peer_on_a_gpu`.
    """
    rng = np.random.default_rng(0)
    files = [folder / f"busy-{k}.mrc" for k in range(count)]
    for file in files:
        write(file, rng.standard_normal(shape, dtype=np.float32))
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200", "--id=0"]
    for mode, checkpoint in (("exact", "random"), ("fast", "decided")):
        with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watching:
            seconds, peak = measured(
                [str(OURS), "segment", *map(str, files), "--model", str(folder / f"{checkpoint}.ckpt"),
                 "--output", str(folder / f"busy-{mode}"), "--set", f"segment.mode={mode}"]
            )  # fmt: skip
            watching.terminate()
            lines = (watching.stdout.read() if watching.stdout else "").split()
        busy = np.array([int(line) for line in lines if line.isdigit()])
        begun = np.flatnonzero(busy)
        inner = busy[begun[0] : begun[-1] + 1]
        voxels = count * int(np.prod(shape))
        say(
            f"{mode} mode, {checkpoint}, {count} tomograms of {shape}: {seconds:.1f} s, "
            f"{voxels / seconds / 1e6:.2f} M voxels/s, {peak:.2f} GiB; GPU busy {busy.mean():.0f} % of the command, "
            f"{inner.mean():.0f} % of {len(inner) / 5:.0f} s from its first to its last window"
        )


def _cuda_seconds(function: Any, repeat: int = 9) -> float:
    """Return the median by the device's own clock."""
    for _ in range(2):
        function()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeat + 1)]
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    torch.cuda.synchronize()
    return sorted(before.elapsed_time(after) for before, after in itertools.pairwise(marks))[repeat // 2] / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["peer", "fast", "large", "gpu"])
    parser.add_argument("--no-mirrors", action="store_true", help="peer: both without test-time augmentation")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], help="fast: of the phantoms")
    parser.add_argument("--model", default="membrain-cloud-small", help="fast: a name or a file")
    parser.add_argument("--shape", type=lambda text: tuple(int(n) for n in text.split(",")), help="peer: z,y,x")
    parser.add_argument("--small", action="store_true", help="smaller volumes and windows: minutes in place of an hour")
    chosen = parser.parse_args()
    say(f"{os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.what == "peer":
            volume = ((96, 128, 128), 64) if chosen.small else ((160, 256, 256), 160)
            beside_the_peer(folder, chosen.shape or volume[0], volume[1], mirrors=not chosen.no_mirrors)
        elif chosen.what == "fast":
            seeds = chosen.seeds or ([3002] if chosen.small else [3002, 3003, 3004, 5001, 5002, 5003])
            fast_against_exact(seeds, chosen.model)
        elif chosen.what == "large":
            large(folder, (100, 300, 300) if chosen.small else (500, 1000, 1000))
        else:
            gpu(folder, chosen.shape or (256, 512, 512))


if __name__ == "__main__":
    main()

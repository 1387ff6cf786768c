"""Segmentation training beside membrain-seg's own loader and step: same patches, same network, same arithmetic.

    benchmarks/peers.sh                        once: the peer's environment
    python -m benchmarks.training              CPU seconds a patch of both sides, and their ratio
    python -m benchmarks.training --augmentation   one 160^3 patch on one core, each augmentation by itself

Each side is a process of its own with one thread and no worker, so that the processor's time is all there is; the two
take turns. Both train in bfloat16 where the processor has it, as Lightning does for the peer's "16-mixed" on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

PEER = Path(__file__).parent / ".peers" / "bin" / "python"
CHANNELS = (8, 16, 32, 64, 64, 64)

# Noise with sheets through it, in the peer's file format; the first argument is the folder, the second the edge.
_DATA = """
import os, sys, numpy as np, SimpleITK as sitk
folder, edge = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
for part in ("Tr", "Val"):
    for kind in ("images", "labels"):
        os.makedirs(f"{folder}/{kind}{part}", exist_ok=True)
    for k in range(4):
        label = np.zeros((edge,) * 3, np.uint8)
        label[:, 10 + k:14 + k] = label[20:24] = 1
        label[-3:] = 2
        image = (rng.standard_normal(label.shape) - 1.5 * (label == 1)).astype(np.float32)
        for kind, name, array in (("images", f"s_{k}_0000", image), ("labels", f"s_{k}", label)):
            made = sitk.GetImageFromArray(array)
            made.SetSpacing((10.0, 10.0, 10.0))
            sitk.WriteImage(made, f"{folder}/{kind}{part}/{name}.nii.gz")
"""

_PEER = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from torch.utils.data import DataLoader
from membrain_seg.segmentation.dataloading.memseg_dataset import CryoETMemSegDataset
from membrain_seg.segmentation.networks.unet import SemanticSegmentationUnet
asked = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
data = CryoETMemSegDataset(f"{asked['folder']}/imagesTr", f"{asked['folder']}/labelsTr", train=True,
                           aug_prob_to_one=asked["every"], patch_size=asked["window"])
module = SemanticSegmentationUnet(channels=asked["channels"], use_deep_supervision=True, use_surf_dice=True)
module.train()
(optimiser,), _ = module.configure_optimizers()
def batches():
    while True:
        yield from DataLoader(data, batch_size=2, shuffle=True)
source = batches()
def load():
    return next(source)
def step(batch):
    with torch.autocast("cpu", torch.bfloat16, enabled=asked["lower"]):
        loss = module.training_step(batch, 0)["loss"]
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
"""

_OURS = """
import json, sys, time
from pathlib import Path
import torch
from dataclasses import replace
from membrain_cloud.pipeline.training.labelled_volumes import folder_volumes
from membrain_cloud.training.augmentation.policy import CHANCES
from membrain_cloud.training.segmentation.batches import batches
from membrain_cloud.training.segmentation.config import MEMBRAIN_SEG
from membrain_cloud.training.segmentation.labelled_patches import VolumePatches
from membrain_cloud.training.segmentation.trainer import Trainer
asked = json.loads(sys.argv[1])
torch.set_num_threads(1)
augmentations = MEMBRAIN_SEG.augmentations
if asked["every"]:
    # As the peer's: all but the flip, and either the median or the Gaussian.
    chances = dict.fromkeys((name for name in CHANCES if getattr(augmentations, name)), 1.0)
    augmentations = augmentations.with_chances({**chances, "flip": 0.5, "median": 0.5, "gaussian": 0.5})
settings = replace(MEMBRAIN_SEG, channels=tuple(asked["channels"]), window=asked["window"], workers=0,
                   precision="bfloat16" if asked["lower"] else "float32", steps=10**6)
volumes = folder_volumes(Path(asked["folder"]), "Tr", Path(asked["folder"]) / "work", margin=settings.window)
source = batches(VolumePatches(tuple(volumes), settings.window, augmentations), settings, asked["seed"], 0, 10**6)
trainer = Trainer(settings, torch.device("cpu"), None)
def load():
    return next(source)
def step(batch):
    trainer.train(*batch)
"""

# The first batch warms up compilers and caches, and is not counted.
_MEASURE = """
spent = {"loader": 0.0, "step": 0.0}
for k in range(asked["batches"] + 1):
    started = time.process_time()
    batch = load()
    between = time.process_time()
    step(batch)
    if k:
        spent["loader"] += between - started
        spent["step"] += time.process_time() - between
print(json.dumps({name: seconds / (2 * asked["batches"]) for name, seconds in spent.items()}))
"""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def beside_the_peer(window: int, batches: int, rounds: int) -> None:
    lower = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    say(f"patches of {window}^3, channels {CHANNELS}, residual, deep supervision, Surface-Dice; bfloat16: {lower}")
    say("| augmentations | side | loader | step | together | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([PEER, "-c", _DATA, folder, str(window + 16)], check=True)
        for every, name in ((False, "by their chances"), (True, "every one, the peer's default")):
            asked = {"folder": folder, "window": window, "channels": CHANNELS, "every": every, "lower": lower}
            spent: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
            for seed in range(rounds):
                for side, python, code in (("peer", str(PEER), _PEER), ("ours", sys.executable, _OURS)):
                    spent[side].append(_measured(python, code, {**asked, "batches": batches, "seed": seed}))
            means = {s: {k: float(np.mean([r[k] for r in runs])) for k in runs[0]} for s, runs in spent.items()}
            totals = {side: sum(parts.values()) for side, parts in means.items()}
            for side, parts in means.items():
                ratio = f"{totals['peer'] / totals['ours']:.1f} times" if side == "ours" else ""
                say(f"| {name} | {side} | {parts['loader']:.2f} | {parts['step']:.2f} | {totals[side]:.2f} | {ratio} |")


def _measured(python: str, code: str, asked: dict[str, Any]) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [python, "-W", "ignore", "-c", code + _MEASURE, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def augmentation(window: int, draws: int) -> None:
    """CPU seconds of one patch on one core: each augmentation by itself, and the mean over `draws`."""
    from membrain_cloud.training.augmentation.policy import CHANCES, PRESETS, Augmentations

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((window + 20,) * 3).astype(np.float32)
    label = (image > 1).astype(np.uint8)
    middle = np.array(image.shape) / 2

    def patch(chosen: Augmentations) -> None:
        chosen.augment_intensity(chosen.cut_patch(image, label, middle, window, rng)[0], rng)

    def seconds(chosen: Augmentations, count: int) -> float:
        started = time.process_time()
        for _ in range(count):
            patch(chosen)
        return (time.process_time() - started) / count

    everything = replace(PRESETS["membrain-seg"], **dict.fromkeys(CHANCES, 1.0))
    patch(everything)
    plain = seconds(PRESETS["none"], 3)
    say("| augmentation | seconds |\n|---|---|")
    for name in CHANCES:
        say(f"| {name} | {max(seconds(PRESETS['none'].with_chances({name: 1.0}), 3) - plain, 0):.2f} |")
    say(f"| mean of {draws} draws of `membrain-seg` | {seconds(PRESETS['membrain-seg'], draws):.2f} |")
    say(f"| every one at once | {seconds(everything, 3):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batches", type=int, default=6, help="of two patches, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--augmentation", action="store_true")
    given = parser.parse_args()
    if given.augmentation:
        augmentation(160, 24)
    else:
        beside_the_peer(given.window, given.batches, given.rounds)


if __name__ == "__main__":
    main()

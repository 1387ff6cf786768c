"""Batches of patches for the training loop: the same ones whenever it is resumed."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from membrain_cloud.training.augmentation.gpu import can_change, together
from membrain_cloud.training.segmentation.simulated_patches import SpecimenPatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.labelled_patches import PatchSource
    from membrain_cloud.training.segmentation.trainer import Batch

_CPU = torch.device("cpu")
_IMAGED_TOGETHER = 32
# Of the batches that may be shown again: 256 patches of 64³, or 16 of 160³.
_KEPT_VOXELS = 2**26


Made = TypeVar("Made")


class _Numbered(Dataset[Made]):
    """`count` things from number `first` on.  make : of the seed and a number; it goes to other processes."""

    def __init__(self, make: Callable[[int, int], Made], seed: int, first: int, count: int) -> None:
        self.make, self.seed, self.first, self.count = make, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Made:
        return self.make(self.seed, self.first + index)


def _tensors(source: PatchSource, seed: int, n: int) -> Batch:
    patch = source.patch(seed, n)
    return torch.from_numpy(patch.image)[None], torch.from_numpy(patch.label)[None]


def training_batches(
    source: PatchSource, settings: SegmentationTraining, step: int, device: torch.device = _CPU
) -> Iterator[Batch]:
    """The batches of the training's steps, from number `step` on.

    Where patches are shown `views` times, one batch in so many is made; the others are drawn from those made last.
    Which ones is a function of the seed and the step: one that is resumed makes those anew that it would have.
    """
    views = settings.views
    room = max(1, _KEPT_VOXELS // (settings.batch * settings.window**3)) if views > 1 else 1
    first = max(0, step // views + 1 - room)
    count = -(-settings.steps // views) - first
    kept: deque[Batch] = deque(maxlen=room)
    made = batches(source, settings, settings.seed, first * settings.batch, count * settings.batch, device)
    for group, batch in enumerate(made, first):
        kept.append(batch)
        for shown in range(max(step, group * views), min(settings.steps, (group + 1) * views)):
            if shown == group * views:
                yield batch
            else:
                yield kept[int(np.random.default_rng((settings.seed, shown)).integers(len(kept)))]


def batches(
    source: PatchSource,
    settings: SegmentationTraining,
    seed: int,
    first: int,
    count: int,
    device: torch.device = _CPU,
) -> Iterator[Batch]:
    """Simulated specimens are imaged on a GPU where there is one: cores alone could not keep it busy."""
    count, batch = max(count, 0), settings.batch
    if device.type != "cpu" and isinstance(source, SpecimenPatches) and can_change(source.augmentations):
        # Some batches are imaged at once: the kernels are short.
        several = batch * max(1, _IMAGED_TOGETHER // batch)
        for pieces in _loader(_Numbered(source.unimaged, seed, first, count), settings, several, collate_fn=together):
            images, labels = source.imaged(pieces, device, batch)
            yield from zip(images.split(batch), labels.split(batch), strict=True)
    else:
        yield from _loader(_Numbered(partial(_tensors, source), seed, first, count), settings, batch)


def _loader(data: Dataset[Any], settings: SegmentationTraining, batch: int, **more: Any) -> Iterator[Any]:
    workers = min(settings.workers, len(data))  # type: ignore[arg-type]
    return iter(
        DataLoader(
            data,
            batch,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
            # Of its own, or each start of the loader would draw from the training's random numbers.
            generator=torch.Generator().manual_seed(0),
            **more,
        )
    )

"""Training of the segmentation network: sources of patches, batches, loss, optimiser and loop.

It may import `training.augmentation`, the modules of `training`, `networks` and the science packages.

Modules:

- `config`: settings of a training, and recipes by name.
- `labelled_patches`: patches of labelled volumes, and the protocol of all patch sources.
- `simulated_patches`: patches of simulated specimens.
- `batches`: batches of patches, reproducible from any step on.
- `losses`: cross-entropy, Dice, soft Surface-Dice, mirror and teacher losses.
- `trainer`: weights, their running average, and the optimiser.
- `loop`: a whole training, from patches to a model file.
"""

__all__ = ["batches", "config", "labelled_patches", "loop", "losses", "simulated_patches", "trainer"]

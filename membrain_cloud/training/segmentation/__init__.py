"""Training of the segmentation network: sources of patches, batches, loss, optimiser and loop.

It may import `training.augmentation`, the modules of `training`, `networks` and the science packages.

Modules
-------
config
    Settings of a training, and recipes by name.
labelled_patches
    Patches of labelled volumes, and the protocol of all patch sources.
simulated_patches
    Patches of simulated specimens.
batches
    Batches of patches, reproducible from any step on.
losses
    Cross-entropy, Dice, soft Surface-Dice, mirror and teacher losses.
trainer
    Weights, their running average, and the optimiser.
loop
    A whole training, from patches to a model file.
"""

__all__ = ["batches", "config", "labelled_patches", "loop", "losses", "simulated_patches", "trainer"]

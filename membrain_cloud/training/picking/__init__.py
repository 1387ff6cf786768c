"""Training of pickers: examples, targets, augmentation, validation and the training of both kinds of network.

It may import `training.segmentation` (imaging conditions), the modules of `training`, `networks`, `picking` and the
other science packages.

Modules:

- `examples`: membranes with known particles.
- `simulated_examples`: examples of simulated tomograms.
- `targets`: the distances that a picker learns to predict.
- `profile_augmentation`: random changes of density profiles.
- `profile_picker`: training of a DiffusionNet on density profiles.
- `subvolume_picker`: training of MemBrain v1's network on subvolumes.
- `epoch_loop`: the training loop of both.
- `validation`: scores of a picker, and its best clustering.
- `learning_curve`: scores by the number of annotated membranes.
- `built_in_picker`: the picker that ships with the package.
"""

__all__ = [
    "built_in_picker",
    "epoch_loop",
    "examples",
    "learning_curve",
    "profile_augmentation",
    "profile_picker",
    "simulated_examples",
    "subvolume_picker",
    "targets",
    "validation",
]

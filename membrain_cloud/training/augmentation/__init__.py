"""Random augmentation of training patches: geometry and intensity in NumPy, and imaging of specimens on a GPU.

It may import `training.labels`, `simulation` and the science packages.

Modules:

- `policy`: which augmentations are applied, with which probabilities and in which order.
- `geometric`: patches cut out of a volume, rotated, magnified and mirrored.
- `intensity`: changes of intensity.
- `fourier`: changes of the amplitude spectrum.
- `gpu`: imaging and changes of intensity for batches of simulated specimens, in torch.
"""

__all__ = ["fourier", "geometric", "gpu", "intensity", "policy"]

"""Random augmentation of training patches: geometry and intensity in NumPy, and imaging of specimens on a GPU.

It may import `training.labels`, `simulation` and the science packages.

Modules
-------
policy
    Which augmentations are applied, with which probabilities and in which order.
geometric
    Patches cut out of a volume, rotated, magnified and mirrored.
intensity
    Changes of intensity.
fourier
    Changes of the amplitude spectrum.
gpu
    Imaging and changes of intensity for batches of simulated specimens, in torch.
"""

__all__ = ["fourier", "geometric", "gpu", "intensity", "policy"]

"""Membrane segmentation networks: loading, and running them on windows of a tomogram.

It may import `networks.model_file` and the ground modules; not `networks.picking`.

Modules
-------
segmenter : load and save networks.
window_network : a network on a batch of windows, in the precision of the machine.
window_averaging : windows cut out, predicted and averaged.
window_rescaling : windows at the voxel spacing of the model.
architecture : the U-Net, MemBrain-seg's checkpoints, symmetric weights.
cpu : forward passes on CPUs.
gpu : forward passes on NVIDIA GPUs.
"""

__all__ = ["architecture", "cpu", "gpu", "segmenter", "window_averaging", "window_network", "window_rescaling"]

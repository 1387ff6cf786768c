"""What a segmentation network consists of: MONAI's DynUNet, MemBrain-seg's checkpoints of it, and symmetric weights.

It may import torch, MONAI and `errors`; not the other packages of `networks.segmentation`.
"""

__all__ = ["membrain_seg_checkpoint", "mirror_symmetry", "unet", "unet_layers"]

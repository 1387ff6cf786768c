"""Forward passes on CPUs: slabs of planes, and convolutions in eight-bit integers.

It may import torch and `networks.segmentation.architecture`.
"""

__all__ = ["int8", "slab_forward"]

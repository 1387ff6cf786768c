"""Forward passes on NVIDIA GPUs: fused kernels in Triton, CUDA graphs, asynchronous transfers.

It may import torch, Triton and `networks.segmentation.architecture`. Modules with kernels need Triton at import.
"""

__all__ = [
    "async_transfer",
    "convolution",
    "cuda_graphs",
    "forward",
    "instance_norm",
    "instance_norm_backward",
    "layers",
]

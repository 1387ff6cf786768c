"""Neural networks in torch: the membrane segmentation U-Net, the surface network of the picker, and their model files.

It may import `geometry`, `tiling`, `atomic` and `errors`, and torch, MONAI and Triton; no storage, no Dask.

Modules
-------
segmentation : the U-Net, its forward passes on CPU and GPU, and the averaging of windows.
picking : DiffusionNet and MemBrain v1's network.
model_file : names, paths and digests of model files.
"""

__all__ = ["model_file", "picking", "segmentation"]

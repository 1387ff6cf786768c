"""Networks that score the surface of a membrane for particles, and their model files.

It may import `networks.model_file`, `atomic` and `errors`, and torch; not `networks.segmentation`.

Modules
-------
picker : a DiffusionNet with all settings of its input; loading and saving.
diffusion_net : the surface network.
subvolume_picker, subvolume_net : MemBrain v1's network on boxes of density.
mean_shift : the mean shift on a GPU.
"""

__all__ = ["diffusion_net", "mean_shift", "picker", "subvolume_net", "subvolume_picker"]

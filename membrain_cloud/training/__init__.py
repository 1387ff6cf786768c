"""Training of segmentation networks and pickers: data, augmentation, losses, and one resumable training loop.

It may import `networks`, `simulation` and the other science packages, but neither storage, Dask nor the pipeline.

Modules and packages:

- `labels`: marks of annotators, merged into labels for training.
- `corrections`: corrections of patches, and rules that combine several annotators.
- `resumable`: the training loop of all networks; `checkpoint` and `curve` are its files.
- `augmentation`: random changes to training patches, in NumPy and on a GPU.
- `segmentation`: patches, loss and loop of the segmentation network.
- `picking`: examples, targets, validation and loops of the pickers.
"""

__all__ = ["augmentation", "checkpoint", "corrections", "curve", "labels", "picking", "resumable", "segmentation"]

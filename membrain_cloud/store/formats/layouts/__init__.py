"""The headers of volume files: one module for each format, with a function that returns a `VolumeLayout`.

May import `store.formats.volume_layout` and the layers below `store.formats`.
"""

__all__ = ["mrc", "nifti", "nrrd", "numpy_array", "tiff"]

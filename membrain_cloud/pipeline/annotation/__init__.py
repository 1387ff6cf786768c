"""Patches of tomograms for annotators: proposing, extracting and merging them.

May import `pipeline.execution.provenance`, `pipeline.planning`, `pipeline.stages`, `store`, `training` and the packages
of algorithms.

Modules
-------
patch_set    the patches of one name in a project, and their files
propose      choose patches where the network is least certain
extract      make the copick project that annotators open
annotators   read what annotators have made of patches
merge        merge annotations into one segmentation for each tomogram
"""

__all__ = ["annotators", "extract", "merge", "patch_set", "propose"]

"""Files in, files out, without a project: segmenting volume files, and what is derived from scores and masks.

May import `pipeline.stages`, `pipeline.models`, `pipeline.settings`, `store`, and the packages of algorithms.

Modules
-------
segment_file   segment a volume file
outputs        the files that this makes: whether they exist already, and publishing them together
postprocess    masks, components, skeletons and uncertainty maps
"""

__all__ = ["outputs", "postprocess", "segment_file"]

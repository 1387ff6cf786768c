"""Comparing annotations: with a truth, with each other, and what changed between two sessions.

May import `pipeline.planning`, `pipeline.tasks`, `store`, `training.labels`, and the packages of algorithms.

Modules
-------
scores        scores of one annotation with another one taken as true
mesh_scores   the same for meshes
pairing       the annotations that two URIs name, run by run
truth         scores of what a run made
diff          differences without a truth
"""

__all__ = ["diff", "mesh_scores", "pairing", "scores", "truth"]

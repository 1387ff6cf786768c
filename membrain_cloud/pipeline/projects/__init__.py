"""Whole projects in one go: the demo, simulated tomograms, folders of meshes, and what a deposition contains.

It may import all of `pipeline` but `training`; the command line imports it.

Modules
-------
demo : simulated tomograms, the whole run on them, scores against the truth, and a report.
simulate : a project of simulated tomograms with the truth as annotations.
measure_folder : statistics of a folder of meshes and particles, without a project.
measure_picks : the membranes around any particles, of a STAR file or of picks.
deposit : the runs of a deposition with their names on the CryoET Data Portal.
"""

__all__ = ["demo", "deposit", "measure_folder", "measure_picks", "simulate"]

"""The public Python API: arrays in, arrays out. `membrain_cloud` exports its names; import them from there.

It may import every layer but `cli`. Nothing else may import it.

Modules
-------
arrays : segment, separate, mesh, pick and measure, in memory.
context : particle_context and measure_picks.
inputs : checks of arrays, voxel spacings and labels.
surfaces : checks of meshes and picks.
projects : open_project, plan and run, as the command line does them.
volumes : read_volume.
phantoms : simulate.
"""

__all__ = ["arrays", "context", "inputs", "phantoms", "projects", "volumes"]

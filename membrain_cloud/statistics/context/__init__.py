"""Describe the membranes around any particles, and the organelles that membranes belong to.

May import `membrain_cloud.mesh` and the packages of `statistics` below `measure`.

Modules: `surroundings` (one membrane as particles around it need it), `particle_context` (rows of that table).
"""

__all__ = ["particle_context", "surroundings"]

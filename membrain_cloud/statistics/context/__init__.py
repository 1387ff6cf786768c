"""Describe the membranes around any particles, and the organelles that membranes belong to.

May import `membrain_cloud.mesh` and the packages of `statistics` below `measure`.

Modules: `surroundings` (one membrane as particles around it need it), `particle_context` (rows of that table),
`organelles` (the organelle of each membrane).
"""

__all__ = ["organelles", "particle_context", "surroundings"]

"""Hold one membrane with its particles, and the quantities that several statistics need of it.

May import `mesh` and `statistics.membrane`, `spatial` and `schema`; `statistics.rows` builds on it.

Modules: `options` (what to measure), `placement` (particles on the surface), `measured_membrane` (the class that the
row functions read), `prepare` (from a mesh and picks to that class), `seeds` (of the simulations).
"""

__all__ = ["measured_membrane", "options", "placement", "prepare", "seeds"]

"""Analyse how particles lie to each other along a surface.

May import `membrain_cloud.mesh`; none of the modules imports `membrane`, `model` or `rows`.

Modules: `neighbors` (nearest neighbours and pair counts), `ripley` (K, L, O and the pair correlation),
`correlation_peaks` (preferred spacings), `random_placement` (complete spatial randomness by simulation), `chains`
(rows of particles such as polysomes).
"""

__all__ = ["chains", "correlation_peaks", "neighbors", "random_placement", "ripley"]

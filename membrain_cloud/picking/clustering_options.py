"""How scores of vertices are clustered into picks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClusteringOptions:
    """Options of `particles.cluster_picks` and of what it calls.

    Attributes
    ----------
    bandwidth_angstrom : float
        Bandwidth of the mean shift, Å. Clusters gather seeds within 0.4 bandwidths.
    score_threshold : float
        Vertices of lower scores are clustered.
    max_iterations : int
        Maximum number of iterations of the mean shift.
    min_samples : int
        Minimum number of seeds within 0.4 bandwidths, the seed itself included, of a cluster's core.
    center_offset_angstrom : float or None
        How far centres are moved along the outward normal, Å; negative towards the middle of the membrane, 0 as
        MemBrain-pick. None for the middle: half of the slab's thickness there.
    largest_nm2 : float or None
        Clusters that cover more surface, nm², are split (`crowded_clusters.split_crowded`); None for none.
    min_distance_angstrom : float or None
        Of two picks nearer to each other along the surface, Å, the one with the better score stays; None for both.
    least_elongation : float
        Minimum elongation of the scores around a pick for its in-plane angle to be reported.
    refine : bool
        Whether centres are moved along the surface to where the scores are lowest; MemBrain-pick does not.
    """

    bandwidth_angstrom: float
    score_threshold: float
    max_iterations: int
    min_samples: int
    center_offset_angstrom: float | None
    largest_nm2: float | None
    min_distance_angstrom: float | None
    least_elongation: float
    refine: bool

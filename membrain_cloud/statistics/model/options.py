"""What to measure, as the science needs it. The defaults are those of the settings (`pipeline.settings`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from membrain_cloud.rotations import InPlane
    from membrain_cloud.statistics.spatial.chains import ChainRules


@dataclass(frozen=True)
class Options:
    """What to measure.

    Parameters
    ----------
    cutoff_nm : float
        Largest distance along the surface of neighbours and pairs, nm.
    bin_width_nm : float
        Width of the bins of pair counts, nm.
    n_neighbors : int
        Number of neighbours in the table, for each kind of particle.
    edge_width_nm : float
        Particles at most this far from the border or a rim are edge particles, nm.
    leaflets_apart : bool
        Cut the shell into its two leaflets, so that no distance leads around a rim from one to the other.
    n_simulations : int
        Number of simulations of random particles, for envelopes, p-values and chains.
    symmetry : int
        Rotational symmetry of the particles, for in-plane angles.
    in_plane : InPlane
        How orientations are compared, see `rotations.in_plane_angles_degrees`.
    against : tuple of str
        Properties by whose bins pairs are counted; distances to the classes of particles are always added.
    chains : ChainRules or None
        Rules of chains; None looks for none.
    gap_nm : float
        Reach of the search for other membranes along normals, nm; 0 turns it off.
    contact_nm : float
        Membranes at most this far apart are in contact, nm.
    """

    cutoff_nm: float
    bin_width_nm: float
    n_neighbors: int
    edge_width_nm: float
    leaflets_apart: bool
    n_simulations: int
    symmetry: int
    in_plane: InPlane
    against: tuple[str, ...]
    chains: ChainRules | None
    gap_nm: float
    contact_nm: float

    @property
    def cutoff_angstrom(self) -> float:
        """The largest distance of neighbours and pairs, Å."""
        return self.cutoff_nm * ANGSTROM_PER_NM

    @property
    def edge_width_angstrom(self) -> float:
        """The width of edges, Å."""
        return self.edge_width_nm * ANGSTROM_PER_NM

    @property
    def gap_angstrom(self) -> float:
        """The reach of the search for other membranes, Å."""
        return self.gap_nm * ANGSTROM_PER_NM

    @property
    def contact_angstrom(self) -> float:
        """The largest gap that counts as contact, Å."""
        return self.contact_nm * ANGSTROM_PER_NM

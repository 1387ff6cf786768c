"""What is to be measured, as the science needs it. Defaults stand in the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from membrain_cloud.rotations import InPlane
    from membrain_cloud.statistics.spatial.chains import ChainRules


@dataclass(frozen=True)
class Options:
    """Lengths in nm.

    cutoff_nm, bin_width_nm : reach and resolution of neighbours and pair counts, along the surface.
    n_neighbors : ranks of neighbours, for each kind of particle.
    edge_width_nm : `is_edge` particles lie so near to where the border or a rim ends the membrane.
    leaflets_apart : cut the shell in its two leaflets, so that no distance leads around a rim from one to the other.
    n_simulations : of particles at random, for envelopes and p-values, and of chains.
    symmetry, in_plane : of in-plane angles, as `angles.in_plane_angles_degrees` has them.
    against : properties by whose bins pairs are counted apart, beside distances to the classes of particles.
    chains : None: none are looked for.
    gap_nm : how far along normals another membrane is looked for; 0: not at all.  contact_nm : what counts as contact.
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
        return self.cutoff_nm * ANGSTROM_PER_NM

    @property
    def edge_width_angstrom(self) -> float:
        return self.edge_width_nm * ANGSTROM_PER_NM

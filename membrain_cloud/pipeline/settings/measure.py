"""The section `measure`: statistics of membranes and particles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.pipeline.settings.section import OptionalText, Section, split_list
from membrain_cloud.pipeline.settings.suggestions import suggest

if TYPE_CHECKING:
    from membrain_cloud.statistics.model.options import Options


class MeasureSettings(Section):
    """Statistics of membranes and particles. Distances are measured along the membrane unless stated otherwise."""

    excluded_from_digest = ("picks",)

    cutoff_nm: float = Field(
        40.0, gt=0, description="Maximum distance in nm along the membrane for neighbours and pair counts."
    )
    bin_width_nm: float = Field(1.0, gt=0, description="Bin width of the pair counts in nm.")
    n_neighbors: int = Field(
        3, ge=1, description="Number of nearest neighbours listed for each particle, of each class."
    )
    edge_width_nm: float = Field(
        5.0,
        ge=0,
        description="Particles within this distance in nm of the tomogram's border or of a rim of the membrane are "
        "marked as edge particles.",
    )
    leaflets: Literal["apart", "joined"] = Field(
        "apart",
        description="`apart`: cut each membrane's shell into its two leaflets. `joined`: distances may lead around "
        "rims from one leaflet to the other.",
    )
    simulations: int = Field(
        99,
        ge=0,
        le=9999,
        description="Number of random placements of particles on each membrane, for envelopes and p-values. 0: none.",
    )
    symmetry: int = Field(
        1,
        ge=1,
        le=360,
        description="Order n of the particles' Cn symmetry about their z axes; in-plane angles range to 180 / n "
        "degrees.",
    )
    in_plane: Literal["turned", "projected"] = Field(
        "turned",
        description="In-plane angle between two particles. `turned`: after one's z axis is turned onto the other's, as "
        "on a flat membrane. `projected`: between y axes projected onto the membrane's plane, as in membrain-stats.",
    )
    against: str = Field(
        "distance_to_edge_nm,mean_curvature_per_nm",
        description="Comma-separated vertex properties by whose bins pairs are also counted separately, or `none`. "
        "Distances to the classes of particles are always included.",
    )
    chains: bool = Field(
        True, description="Search for chains of particles, such as polysomes, by the four rules that follow."
    )
    chain_distance_nm: float = Field(
        40.0, gt=0, description="Maximum distance in nm between the centres of linked particles."
    )
    chain_angle_degrees: float = Field(
        60.0, ge=0, le=180, description="Maximum in-plane angle in degrees between linked particles."
    )
    chain_turn_degrees: float = Field(
        80.0, ge=0, le=180, description="Maximum change of direction in degrees from one link of a chain to the next."
    )
    chain_members: int = Field(3, ge=2, description="Minimum number of particles in a chain.")
    gap_nm: float = Field(
        100.0,
        ge=0,
        description="Maximum distance in nm along the normals at which another membrane, and the other side of the "
        "same one, are searched. 0: no search.",
    )
    contact_nm: float = Field(
        30.0, gt=0, description="Membranes that face each other at less than this distance in nm are in contact."
    )
    bilayer: bool = Field(
        True,
        description="Measure the bilayer's thickness in the tomogram, where there is one. Needs gap_nm above 0.",
    )
    reach_nm: float = Field(
        15.0,
        gt=0,
        description="Imported picks farther than this in nm from every membrane are left out.",
    )
    picks: OptionalText = Field(
        None,
        description="copick URIs of picks to measure in place of the stage pick's, comma-separated for several "
        "classes: `psii:a/1,cytb6f:a/1`. `none`: membranes only. Default: pick's.",
    )
    lamella: OptionalText = Field(
        None,
        description="copick URI of a mask of the lamella, e.g. `lamella:alice/1@10.0`, for distances to its surfaces. "
        "Default: no such distances.",
    )

    @model_validator(mode="after")
    def _check_bins(self) -> Self:
        if self.bin_width_nm > self.cutoff_nm:
            raise PydanticCustomError(
                "bins", f"bin_width_nm {self.bin_width_nm:g} is above cutoff_nm {self.cutoff_nm:g}: no bin fits"
            )
        return self

    @field_validator("against")
    @classmethod
    def _check_against(cls, value: str) -> str:
        from membrain_cloud.statistics.membrane.surface_properties import PROPERTY_NAMES

        for name in split_list(value):
            if name not in PROPERTY_NAMES:
                raise PydanticCustomError("property", f"no property {name}: {suggest(name, PROPERTY_NAMES)}")
        return value

    @property
    def pick_uris(self) -> tuple[str, ...]:
        """The copick URIs in `picks`, in their order."""
        return () if self.picks is None else split_list(self.picks)

    def options(self) -> Options:
        """Return these settings as the statistics take them."""
        from membrain_cloud.statistics.model.options import Options
        from membrain_cloud.statistics.spatial.chains import ChainRules

        rules = ChainRules(
            distance_nm=self.chain_distance_nm,
            angle_degrees=self.chain_angle_degrees,
            turn_degrees=self.chain_turn_degrees,
            n_neighbors=self.n_neighbors,
            least_members=self.chain_members,
        )
        return Options(
            cutoff_nm=self.cutoff_nm,
            bin_width_nm=self.bin_width_nm,
            n_neighbors=self.n_neighbors,
            edge_width_nm=self.edge_width_nm,
            leaflets_apart=self.leaflets == "apart",
            n_simulations=self.simulations,
            symmetry=self.symmetry,
            in_plane=self.in_plane,
            against=split_list(self.against),
            chains=rules if self.chains else None,
            gap_nm=self.gap_nm,
            contact_nm=self.contact_nm,
        )

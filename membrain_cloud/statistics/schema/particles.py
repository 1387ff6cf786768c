"""Columns of the tables about particles: positions, neighbours, pair counts, histograms of properties, chains."""

from __future__ import annotations

from membrain_cloud.statistics.schema.column import BIN, COMPONENT, LEAFLET, count, flag, number, numbers, text

PARTICLES = (
    count("particle_id", "place of the particle in its membrane's list, from 0"),
    text("object_name", "what the particle is"),
    COMPONENT,
    LEAFLET,
    *numbers(("x_angstrom", "y_angstrom", "z_angstrom"), "Å", "centre"),
    *numbers(
        ("rot_degrees", "tilt_degrees", "psi_degrees"), "°", "orientation as RELION's rot, tilt, psi; NULL if unknown"
    ),
    number("score", "", "of the pick, higher is better"),
    number(
        "distance_to_surface_nm",
        "nm",
        "from the centre to the nearest point of the surface, the particle's place on it",
    ),
    *numbers(("normal_x", "normal_y", "normal_z"), "", "outward normal of the surface at the particle's place"),
    number("mean_curvature_per_nm", "1/nm", "at the particle's place"),
    number("gaussian_curvature_per_nm2", "1/nm²", "at the particle's place"),
    number("largest_curvature_per_nm", "1/nm", "the greater principal curvature k1 at the particle's place"),
    number("least_curvature_per_nm", "1/nm", "the smaller principal curvature k2 at the particle's place"),
    number("shape_index", "", "(2/π) atan((k1 + k2) / (k1 - k2)): 1 dome, 0.5 ridge, 0 saddle, -0.5 rut, -1 cup"),
    number("curvedness_per_nm", "1/nm", "√((k1² + k2²) / 2) at the particle's place"),
    number("verticality", "", "at the particle's place: 1 where the normal lies across the beam, 0 along it"),
    number("bilayer_thickness_nm", "nm", "between the leaflets' density peaks about the particle; NULL if unresolved"),
    number("distance_to_boundary_nm", "nm", "along the surface to where it ends, no rim; NULL beyond the cut-off"),
    number("distance_to_rim_nm", "nm", "along the surface to the rim between the leaflets; NULL beyond the cut-off"),
    number("distance_to_border_nm", "nm", "from the centre straight to the tomogram's border; 0 outside"),
    number("distance_to_lamella_nm", "nm", "from the centre to the lamella's surface, below 0 outside; NULL unknown"),
    number("distance_to_next_membrane_nm", "nm", "along the outward normal to another membrane; NULL beyond reach"),
    flag("is_edge", "so near to where the border or a rim ends the surface that neighbours may be missing"),
)

NEIGHBORS = (
    count("particle_id", "the particle"),
    text("object_name", "what it is"),
    COMPONENT,
    text("target_object_name", "what the neighbour is; ranks are counted for each kind"),
    count("rank", "1 for the nearest along the surface"),
    count("target_id", "the neighbour's particle_id"),
    number("geodesic_nm", "nm", "distance along the surface between the particles' places"),
    number("euclidean_nm", "nm", "straight distance between the centres"),
    number(
        "in_plane_angle_degrees",
        "°",
        "between the y axes in the plane of the membrane, 0 to 180 / symmetry; NULL if unknown",
    ),
)

_RADIUS_BIN = (
    count("bin", "number of the bin of distances, from 0"),
    number("r_min_nm", "nm", "lower end of the bin, included"),
    number("r_max_nm", "nm", "upper end of the bin, not included"),
)
_PAIR_COUNTS = (
    count("n_pairs", "ordered pairs whose distance along the surface is in the bin"),
    number("area_sum_nm2", "nm²", "area of surface in the bin, summed over the particles in the centres"),
    number("expected_pairs", "", "n_pairs if the targets lay at random on the component: area_sum times their density"),
    count("n_start", "particles in the centres"),
    count("n_target", "particles counted"),
    number("area_nm2", "nm²", "area of the component"),
)
_PAIR = (
    COMPONENT,
    text("object_name", "what the particles in the centres are"),
    text("target_object_name", "what the counted particles are"),
)
PAIR_COUNTS = (
    *_PAIR,
    *_RADIUS_BIN,
    *_PAIR_COUNTS,
    count("n_simulations", "simulations in random_pair_counts of this component and pair of kinds"),
)
BINNED_PAIR_COUNTS = (
    *_PAIR,
    text("property", "of the particles in the centres, by which they are parted; its unit is in the name"),
    count("property_bin", "number of the property's bin; the first and the last also hold what lies beyond them"),
    number("property_min", "of the property", "lower end of the bin, included"),
    number("property_max", "of the property", "upper end of the bin, not included"),
    *_RADIUS_BIN,
    *_PAIR_COUNTS,
)
RANDOM_PAIR_COUNTS = (
    *_PAIR,
    count("simulation", "number of the simulation, from 0: simulation k of all membranes is one random experiment"),
    count("bin", "number of the bin of distances, as in pair_counts"),
    count("n_pairs", "ordered pairs of particles at random in the bin; 0 where there are none"),
)

PARTICLE_HISTOGRAMS = (
    text("object_name", "what the particles are"),
    LEAFLET,
    *BIN,
    count("n_particles", "particles in the bin"),
)
BINNED_NEIGHBORS = (
    text("object_name", "what the particles are"),
    text("target_object_name", "what their nearest neighbours are"),
    LEAFLET,
    *BIN,
    count("n_particles", "particles in the bin"),
    count("n_found", "of these, such as have a neighbour of this kind within the cut-off"),
    number("distance_sum_nm", "nm", "along the surface to the nearest one, summed over n_found"),
    number("distance_square_sum_nm2", "nm²", "the squares of the same, for a standard deviation"),
)

CHAINS = (
    count("chain_id", "number of the chain on its membrane, from 0; of one object, longest first"),
    text("object_name", "what the particles are"),
    COMPONENT,
    count("n_members", "particles in the chain"),
    number("length_nm", "nm", "straight distances between successive centres, summed"),
    number("span_nm", "nm", "straight distance between the first and the last centre"),
    number("mean_in_plane_angle_degrees", "°", "between successive particles"),
    number("mean_turn_degrees", "°", "of the chain's way at its inner members; 0 goes straight on"),
)
CHAIN_MEMBERS = (
    count("chain_id", "the chain"),
    text("object_name", "what the particle is"),
    count("place", "of the particle in the chain, from 0"),
    count("particle_id", "the particle"),
    number("next_nm", "nm", "straight distance to the next one's centre; NULL for the last"),
    number("in_plane_angle_degrees", "°", "to the next one; NULL for the last"),
    number("turn_degrees", "°", "of the way at this particle; NULL at the ends"),
)
RANDOM_CHAINS = (
    text("object_name", "what the particles are"),
    count("simulation", "number of the simulation: the same places, orientations turned at random about the normals"),
    count("n_chains", "chains found"),
    count("n_members", "particles in them"),
    count("longest", "members of the longest; 0 without a chain"),
)

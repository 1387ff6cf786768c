"""Columns of the tables about tomograms and membranes: sizes, local properties, mutual distances, density profiles."""

from __future__ import annotations

from membrain_cloud.statistics.schema.column import BIN, LEAFLET, count, flag, number, numbers, text

_PERCENTILES = (5, 25, 50, 75, 95)

TOMOGRAMS = (
    count("shape_z", "size of the volume", "voxel"),
    count("shape_y", "size of the volume", "voxel"),
    count("shape_x", "size of the volume", "voxel"),
    number("volume_um3", "µm³", "volume of the whole tomogram"),
    count("n_membranes", "membranes that have a mesh"),
    count("n_failed_membranes", "of these, such as could not be measured; `error` in `membranes` says why"),
    count("n_particles", "particles measured; NULL when none were asked for"),
    text("mesh_uri", "URI of the meshes"),
    text("picks_uri", "URIs of the particles, a comma between two; NULL when none were asked for"),
    text("density_uri", "the tomogram that bilayers were measured in; NULL when none was read"),
    text("lamella_uri", "URI of the segmentation of the lamella; NULL when none was given"),
    text("package_version", "version of membrain_cloud"),
    text("data_version", "version of what the code makes of the same input"),
)

MEMBRANES = (
    text("error", "why the membrane could not be measured, all else is NULL then; NULL where it could be"),
    count("random_seed", "of the membrane's simulations, from its run, number, mesh, particles and settings"),
    text("mesh_surface", "what the mesh is of: shell around the membrane, side (one of its two), or midsurface"),
    count("n_vertices", "vertices of the mesh"),
    count("n_faces", "faces of the mesh, without those that name a vertex twice"),
    count("n_components", "connected parts of the surface without border caps"),
    number(
        "shell_area_nm2",
        "nm²",
        "area of the closed shell around the membrane, border caps and rims included; NULL for other meshes",
    ),
    number(
        "one_sided_area_nm2",
        "nm²",
        "the membrane's area, seen from one side: half of the shell's without border caps and rims",
    ),
    number(
        "outer_leaflet_area_nm2",
        "nm²",
        "of the larger leaflet, without border caps and rims; NULL where they are not told apart",
    ),
    number("inner_leaflet_area_nm2", "nm²", "of the smaller leaflet, without border caps and rims"),
    number(
        "area_without_edges_nm2",
        "nm²",
        "one-sided area farther than the edge width from the border's cut and from rims",
    ),
    flag("is_closed", "the membrane is a vesicle inside the tomogram: its shell has an outer and an inner surface"),
    flag("is_manifold", "no edge of the mesh has more than two faces, or two that are wound against each other"),
    flag("has_edge", "the surface ends somewhere: at the border's cut, at a rim between leaflets or at a hole"),
    flag("touches_border", "the tomogram's border cuts the membrane"),
    flag("touches_lamella", "the lamella's surface cuts the membrane; NULL where no lamella was given"),
    number("boundary_length_nm", "nm", "of the surface's ends, rims between leaflets not counted"),
    number("rim_length_nm", "nm", "of the rims between the leaflets"),
    count(
        "euler_characteristic", "of the shell, border caps included: 2 for each surface like a sphere, less 2 a handle"
    ),
    number("volume_nm3", "nm³", "of the membrane itself, inside its shell; NULL where the shell is not closed"),
    number("lumen_volume_nm3", "nm³", "inside the inner surface of a closed membrane"),
    number(
        "thickness_nm",
        "nm",
        "of the segmentation: volume / one-sided area, or as the mesh states it; NULL where unknown",
    ),
    number(
        "bilayer_thickness_nm",
        "nm",
        "between the two leaflets' density peaks, along normals; NULL where they are not resolved, or without density",
    ),
    number("bilayer_thickness_error_nm", "nm", "standard error of the same, over patches of the membrane"),
    *numbers(
        ("box_min_x_angstrom", "box_min_y_angstrom", "box_min_z_angstrom"), "Å", "lower corner of the bounding box"
    ),
    *numbers(
        ("box_max_x_angstrom", "box_max_y_angstrom", "box_max_z_angstrom"), "Å", "upper corner of the bounding box"
    ),
    *numbers(
        tuple(f"mean_curvature_p{percent:02d}_per_nm" for percent in _PERCENTILES),
        "1/nm",
        "mean curvature (above 0 where convex seen from outside) below which this % of area lies",
    ),
    number("abs_mean_curvature_p50_per_nm", "1/nm", "the same median for the curvature without its sign"),
    number("gaussian_curvature_p50_per_nm2", "1/nm²", "median over area"),
    number("largest_curvature_p50_per_nm", "1/nm", "median over area of the greater principal curvature"),
    number("least_curvature_p50_per_nm", "1/nm", "median over area of the smaller principal curvature"),
    number("shape_index_p50", "", "median over area"),
    number("curvedness_p50_per_nm", "1/nm", "median over area"),
    number("verticality_mean", "", "mean over area; 1 where the normal lies across the beam, 0 along it"),
    count("n_particles", "particles on the membrane; NULL when none were asked for"),
    number("particles_per_um2", "1/µm²", "particles / one-sided area"),
    count("n_particles_without_edges", "particles that are no edge particles: for area_without_edges_nm2"),
)

MEMBRANE_PARTICLES = (
    text("object_name", "what the particles are; a row for each kind there could be, also where there are none"),
    count("n_particles", "particles of this kind on the membrane"),
    number("particles_per_um2", "1/µm²", "these / one-sided area"),
    count("n_particles_without_edges", "of these, such as are no edge particles: for area_without_edges_nm2"),
    number("one_sided_area_nm2", "nm²", "the membrane's, as in `membranes`"),
    number("area_without_edges_nm2", "nm²", "the membrane's, as in `membranes`"),
)

MEMBRANE_HISTOGRAMS = (
    LEAFLET,
    *BIN,
    number("area_nm2", "nm²", "area of the surface in the bin, without border caps and rims"),
    number("one_sided_area_nm2", "nm²", "its share of the membrane's one-sided area; sums over both leaflets"),
)

MEMBRANE_PAIRS = (
    count("other_membrane_id", "the other membrane; the same one for its distances to itself"),
    number("min_distance_nm", "nm", "between the nearest points of the two surfaces; NULL to itself"),
    number(
        "median_gap_nm", "nm", "along outward normals to the other membrane, median over the facing area; NULL if none"
    ),
    number("facing_area_nm2", "nm²", "of this membrane, whose outward normals meet the other one first, within reach"),
    number("contact_area_nm2", "nm²", "of this membrane, facing the other one within the contact distance"),
)

DENSITY_PROFILES = (
    count("bin", "number of the bin of offsets, from 0"),
    number("offset_min_nm", "nm", "lower end of the bin: along the normal from midway between the leaflets"),
    number("offset_max_nm", "nm", "upper end of the bin; offsets above 0 lie on the larger leaflet's side"),
    number("area_nm2", "nm²", "area of mid-surface whose normals were followed"),
    number(
        "density_area_sum",
        "σ nm²",
        "its density, in standard deviations above the tomogram's mean, times area; over area_nm2: the mean profile",
    ),
)

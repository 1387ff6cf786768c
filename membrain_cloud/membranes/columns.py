"""The columns of the tables: names, kinds, units and what they mean. The one place that defines them.

Unknown is None (NULL), never -1 or infinity. Counts and areas add up over membranes, tomograms and datasets; what does
not (densities, g and K) follows from them in a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """One column. `unit` is empty for what has none."""

    name: str
    kind: Literal["int", "float", "text", "bool"]
    unit: str
    description: str


def _text(name: str, description: str) -> Column:
    return Column(name, "text", "", description)


def _count(name: str, description: str, unit: str = "") -> Column:
    return Column(name, "int", unit, description)


def _number(name: str, unit: str, description: str) -> Column:
    return Column(name, "float", unit, description)


def _flag(name: str, description: str) -> Column:
    return Column(name, "bool", "", description)


def _each(names: tuple[str, ...], unit: str, description: str) -> tuple[Column, ...]:
    return tuple(_number(name, unit, description) for name in names)


TOMOGRAM_KEYS = (
    _text("dataset_id", "the dataset the tomogram belongs to"),
    _text("run_name", "the run (one tilt series and what was made of it)"),
    _text("tomogram_id", "the portal's id, or type@spacing where it has none"),
    _number("voxel_spacing_angstrom", "Å", "edge of a voxel of the tomogram"),
    _text("segmentation", "URI of the segmentation whose membranes were measured"),
    _text("digest", "of the settings, models, inputs and data version that the row hangs on"),
)
MEMBRANE_KEYS = (*TOMOGRAM_KEYS, _count("membrane_id", "value of the membrane in the instance segmentation"))

_COMPONENT = _count(
    "component_id", "connected part of the membrane's surface without border caps, cut at rims, largest first, from 0"
)
_LEAFLET = _count("leaflet", "0: the larger leaflet (a vesicle's outer one), 1: the other; NULL where not told apart")
_CURVATURE_SHARES = tuple(f"mean_curvature_p{share:02d}_per_nm" for share in (5, 25, 50, 75, 95))

_TOMOGRAMS = (
    _count("shape_z", "size of the volume", "voxel"),
    _count("shape_y", "size of the volume", "voxel"),
    _count("shape_x", "size of the volume", "voxel"),
    _number("volume_um3", "µm³", "volume of the whole tomogram"),
    _count("n_membranes", "membranes measured"),
    _count("n_particles", "particles measured; NULL when none were asked for"),
    _text("mesh_uri", "URI of the meshes"),
    _text("picks_uri", "URI of the particles; NULL when none were asked for"),
    _text("package_version", "version of membrain_cloud"),
    _text("data_version", "version of what the code makes of the same input"),
)

_MEMBRANES = (
    _count("n_vertices", "vertices of the mesh"),
    _count("n_faces", "faces of the mesh"),
    _count("n_components", "connected parts of the surface without border caps"),
    _number("shell_area_nm2", "nm²", "area of the closed shell around the membrane, border caps included"),
    _number(
        "one_sided_area_nm2",
        "nm²",
        "half the shell's area without border caps: the membrane's area, seen from one side",
    ),
    _number(
        "outer_leaflet_area_nm2",
        "nm²",
        "of the larger leaflet, without border caps; NULL where they are not told apart",
    ),
    _number("inner_leaflet_area_nm2", "nm²", "of the smaller leaflet, without border caps"),
    _number(
        "area_without_edges_nm2",
        "nm²",
        "one-sided area farther than the edge width from the border's cut and from rims",
    ),
    _flag("is_closed", "the membrane is a vesicle inside the tomogram: its shell has an outer and an inner surface"),
    _flag("touches_border", "the tomogram's border cuts the membrane"),
    _count(
        "euler_characteristic", "of the shell, border caps included: 2 for each surface like a sphere, less 2 a handle"
    ),
    _number("volume_nm3", "nm³", "of the membrane itself, inside its shell; NULL where the shell is not closed"),
    _number("lumen_volume_nm3", "nm³", "inside the inner surface of a closed membrane"),
    _number("thickness_nm", "nm", "volume / one-sided area; NULL where either is unknown"),
    *_each(("box_min_x_angstrom", "box_min_y_angstrom", "box_min_z_angstrom"), "Å", "lower corner of the bounding box"),
    *_each(("box_max_x_angstrom", "box_max_y_angstrom", "box_max_z_angstrom"), "Å", "upper corner of the bounding box"),
    *_each(
        _CURVATURE_SHARES,
        "1/nm",
        "mean curvature (above 0 where convex seen from outside) below which this % of area lies",
    ),
    _number("abs_mean_curvature_p50_per_nm", "1/nm", "the same median for the curvature without its sign"),
    _count("n_particles", "particles on the membrane; NULL when none were asked for"),
    _number("particles_per_um2", "1/µm²", "particles / one-sided area"),
    _count("n_particles_without_edges", "particles that are no edge particles: for area_without_edges_nm2"),
)

_PARTICLES = (
    _count("particle_id", "place of the particle in its membrane's list, from 0"),
    _text("object_name", "what the particle is"),
    _COMPONENT,
    _LEAFLET,
    *_each(("x_angstrom", "y_angstrom", "z_angstrom"), "Å", "centre"),
    *_each(
        ("rot_degrees", "tilt_degrees", "psi_degrees"), "°", "orientation as RELION's rot, tilt, psi; NULL if unknown"
    ),
    _number("score", "", "of the pick, higher is better"),
    _number(
        "distance_to_surface_nm",
        "nm",
        "from the centre to the nearest point of the surface, the particle's place on it",
    ),
    *_each(("normal_x", "normal_y", "normal_z"), "", "outward normal of the surface at the particle's place"),
    _number("mean_curvature_per_nm", "1/nm", "at the particle's place"),
    _number("gaussian_curvature_per_nm2", "1/nm²", "at the particle's place"),
    _number("largest_curvature_per_nm", "1/nm", "the greater principal curvature k1 at the particle's place"),
    _number("least_curvature_per_nm", "1/nm", "the smaller principal curvature k2 at the particle's place"),
    _number("shape_index", "", "(2/π) atan((k1 + k2) / (k1 - k2)): 1 dome, 0.5 ridge, 0 saddle, -0.5 rut, -1 cup"),
    _number("curvedness_per_nm", "1/nm", "√((k1² + k2²) / 2) at the particle's place"),
    _number("distance_to_boundary_nm", "nm", "along the surface to where the border cuts it; NULL beyond the cut-off"),
    _number("distance_to_rim_nm", "nm", "along the surface to the rim between the leaflets; NULL beyond the cut-off"),
    _number("distance_to_border_nm", "nm", "from the centre straight to the tomogram's border; 0 outside"),
    _flag("is_edge", "so near to where the border or a rim ends the surface that neighbours may be missing"),
)

_NEIGHBORS = (
    _count("particle_id", "the particle"),
    _text("object_name", "what it is"),
    _COMPONENT,
    _text("target_object_name", "what the neighbour is; ranks are counted for each kind"),
    _count("rank", "1 for the nearest along the surface"),
    _count("target_id", "the neighbour's particle_id"),
    _number("geodesic_nm", "nm", "distance along the surface between the particles' places"),
    _number("euclidean_nm", "nm", "straight distance between the centres"),
    _number("in_plane_angle_degrees", "°", "between the y axes, normals brought into line, 0 to 180; NULL if unknown"),
)

_PAIR_COUNTS = (
    _COMPONENT,
    _text("object_name", "what the particles in the centres are"),
    _text("target_object_name", "what the counted particles are"),
    _count("bin", "number of the bin of distances, from 0"),
    _number("r_min_nm", "nm", "lower end of the bin, included"),
    _number("r_max_nm", "nm", "upper end of the bin, not included"),
    _count("n_pairs", "ordered pairs whose distance along the surface is in the bin"),
    _number("area_sum_nm2", "nm²", "area of surface in the bin, summed over the particles in the centres"),
    _number(
        "expected_pairs", "", "n_pairs if the targets lay at random on the component: area_sum times their density"
    ),
    _count("n_start", "particles in the centres"),
    _count("n_target", "particles counted"),
    _number("area_nm2", "nm²", "area of the component"),
)

_RANDOM_PAIR_COUNTS = (
    _COMPONENT,
    _text("object_name", "what the particles in the centres are"),
    _text("target_object_name", "what the counted particles are"),
    _count("simulation", "number of the simulation, from 0; sums over membranes keep it apart"),
    _count("bin", "number of the bin of distances, as in pair_counts"),
    _count("n_pairs", "ordered pairs of particles at random in the bin; no row where there are none"),
)

_BIN = (
    _text("property", "what is binned; its unit is in the name"),
    _count("bin", "number of the bin, from 0; the first and the last also hold what lies beyond them"),
    _number("bin_min", "of the property", "lower end of the bin, included"),
    _number("bin_max", "of the property", "upper end of the bin, not included"),
)
_MEMBRANE_HISTOGRAMS = (_LEAFLET, *_BIN, _number("area_nm2", "nm²", "area of faces in the bin, without border caps"))
_PARTICLE_HISTOGRAMS = (
    _text("object_name", "what the particles are"),
    _LEAFLET,
    *_BIN,
    _count("n_particles", "particles on faces in the bin"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "tomograms": (*TOMOGRAM_KEYS, *_TOMOGRAMS),
    "membranes": (*MEMBRANE_KEYS, *_MEMBRANES),
    "particles": (*MEMBRANE_KEYS, *_PARTICLES),
    "neighbors": (*MEMBRANE_KEYS, *_NEIGHBORS),
    "pair_counts": (*MEMBRANE_KEYS, *_PAIR_COUNTS),
    "random_pair_counts": (*MEMBRANE_KEYS, *_RANDOM_PAIR_COUNTS),
    "membrane_histograms": (*MEMBRANE_KEYS, *_MEMBRANE_HISTOGRAMS),
    "particle_histograms": (*MEMBRANE_KEYS, *_PARTICLE_HISTOGRAMS),
}

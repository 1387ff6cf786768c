"""Rows about a membrane itself: `membranes`, `membrane_particles`, `membrane_histograms`, `density_profiles`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.membrane import surface_properties as properties
from membrain_cloud.statistics.membrane.bilayer_thickness import BIN_NM, offsets_nm
from membrain_cloud.statistics.membrane.weighted import weighted_mean, weighted_quantile
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane
    from membrain_cloud.statistics.schema.column import Row

# An inner surface of a vesicle has at least this share of the largest surface's area; smaller ones are holes.
MIN_INNER_SHARE = 0.2


def membrane_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the row of `membranes`: sizes, topology, thickness, curvature and counts of particles.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row.
    """
    shell, surface, area = membrane.shell, membrane.surface, membrane.one_sided_area_nm2
    used = shell.vertices[np.unique(shell.faces)]
    is_shell = membrane.kind == "shell"
    enclosed = shell.volume / ANGSTROM_PER_NM**3 if shell.is_closed and shell.volume > 0.0 else None
    volume, lumen = (enclosed, _lumen_nm3(shell)) if is_shell else (None, enclosed)
    lumen = None if membrane.touches_border else lumen
    thickness = volume / area if volume is not None and area else None
    if membrane.thickness is not None:
        thickness = membrane.thickness / ANGSTROM_PER_NM
    count = None if membrane.picks is None else len(membrane.order)
    inner_area, inner_count = _without_edges(membrane)
    low, high = used.min(axis=0).tolist(), used.max(axis=0).tolist()
    return [
        {
            "error": None,
            "random_seed": membrane.seed,
            "mesh_surface": membrane.kind,
            "n_vertices": len(used),
            "n_faces": len(shell.faces),
            "n_components": surface.n_components,
            "shell_area_nm2": float(shell.face_areas.sum()) / ANGSTROM_PER_NM**2 if is_shell else None,
            "one_sided_area_nm2": area,
            **_leaflet_areas(membrane),
            "area_without_edges_nm2": inner_area,
            "is_closed": lumen is not None,
            "is_manifold": shell.is_manifold,
            "has_edge": bool(len(surface.boundary_edges)),
            "touches_border": membrane.touches_border,
            "touches_lamella": _touches_lamella(membrane),
            "boundary_length_nm": surface.boundary_length / ANGSTROM_PER_NM,
            "rim_length_nm": membrane.rim_length / ANGSTROM_PER_NM,
            "euler_characteristic": shell.euler_characteristic,
            "volume_nm3": volume,
            "lumen_volume_nm3": lumen,
            "thickness_nm": thickness,
            **_bilayer(membrane),
            **{f"box_min_{axis}_angstrom": value for axis, value in zip("xyz", low, strict=True)},
            **{f"box_max_{axis}_angstrom": value for axis, value in zip("xyz", high, strict=True)},
            **_over_area(membrane),
            "n_particles": count,
            "particles_per_um2": count / area * 1e6 if count is not None and area else None,
            "n_particles_without_edges": inner_count,
        }
    ]


def class_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `membrane_particles`: counts of each kind of particle that could occur.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a kind, in the order of `kind_names`; none if particles are not measured.
    """
    if membrane.picks is None:
        return []
    area, inner_area = membrane.one_sided_area_nm2, _without_edges(membrane)[0]
    inner = ~membrane.is_edge if len(membrane.order) else np.zeros(0, bool)
    rows: list[Row] = []
    for kind, name in enumerate(membrane.kind_names):
        of_kind = membrane.kinds == kind
        count = int(of_kind.sum())
        rows.append(
            {
                "object_name": name,
                "n_particles": count,
                "particles_per_um2": count / area * 1e6 if area else None,
                "n_particles_without_edges": None if inner_area is None else int((of_kind & inner).sum()),
                "one_sided_area_nm2": area,
                "area_without_edges_nm2": inner_area,
            }
        )
    return rows


def histogram_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `membrane_histograms`: area in bins of local properties.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a property, leaflet and bin that has area; none for a shell of border caps alone.
    """
    if membrane.one_sided_area_nm2 is None:
        return []
    rows: list[Row] = []
    leaflets = membrane.face_leaflets
    for prop in membrane.properties:
        of_sample = leaflets[prop.faces]
        for leaflet in np.unique(leaflets).tolist():
            here = of_sample == leaflet
            areas = prop.scale.histogram(prop.values[here], prop.areas[here]) / ANGSTROM_PER_NM**2
            one_sided = prop.areas[here] * membrane.one_sided_shares[prop.faces[here]]
            of_membrane = prop.scale.histogram(prop.values[here], one_sided) / ANGSTROM_PER_NM**2
            for number in np.flatnonzero(areas > 0.0).tolist():
                rows.append(
                    {
                        "leaflet": None if membrane.leaflets is None else leaflet,
                        **prop.scale.bin_row(number),
                        "area_nm2": float(areas[number]),
                        "one_sided_area_nm2": float(of_membrane[number]),
                    }
                )
    return rows


def density_profile_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `density_profiles`: the mean density along the normals.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a bin of offsets, from inside to outside; none if no density is known.
    """
    bilayer = membrane.bilayer
    if bilayer is None:
        return []
    area = bilayer.area / ANGSTROM_PER_NM**2
    return [
        {
            "bin": number,
            "offset_min_nm": round(float(middle) - BIN_NM / 2.0, 9),
            "offset_max_nm": round(float(middle) + BIN_NM / 2.0, 9),
            "area_nm2": area,
            "density_area_sum": float(value) * area,
        }
        for number, (middle, value) in enumerate(zip(offsets_nm(), bilayer.profile, strict=True))
    ]


def _leaflet_areas(membrane: MeasuredMembrane) -> dict[str, float | None]:
    """Return the columns with the areas of both leaflets, border caps not counted."""
    if membrane.leaflets is None:
        return {"outer_leaflet_area_nm2": None, "inner_leaflet_area_nm2": None}
    areas = np.bincount(membrane.leaflets, membrane.surface.face_areas, minlength=2) / ANGSTROM_PER_NM**2
    return {"outer_leaflet_area_nm2": float(areas[0]), "inner_leaflet_area_nm2": float(areas[1])}


def _without_edges(membrane: MeasuredMembrane) -> tuple[float | None, int | None]:
    """Return the one-sided area (nm²) and the number of particles farther than the edge width from an end."""
    if membrane.one_sided_area_nm2 is None:
        return None, None
    (to_edge,) = (values for values in membrane.properties if values.scale.name == "distance_to_edge_nm")
    inner = to_edge.values > membrane.options.edge_width_nm
    one_sided = to_edge.areas * membrane.one_sided_shares[to_edge.faces]
    area = float(one_sided[inner].sum()) / ANGSTROM_PER_NM**2
    if membrane.picks is None:
        return area, None
    return area, int((~membrane.is_edge).sum()) if len(membrane.order) else 0


def _lumen_nm3(shell: Surface) -> float | None:
    """Return the volume inside the inner surfaces of a vesicle's shell, those whose normals point to the middle."""
    areas = np.bincount(shell.face_components, shell.face_areas)
    inner = 0.0
    for component in np.flatnonzero(areas >= MIN_INNER_SHARE * areas.max()):
        part = Surface(Mesh(shell.vertices, shell.faces[shell.face_components == component]))
        inner += max(-part.volume, 0.0) if part.is_closed else 0.0
    return inner / ANGSTROM_PER_NM**3 if inner > 0.0 else None


def _touches_lamella(membrane: MeasuredMembrane) -> bool | None:
    """Tell whether the surface comes within the edge width of the lamella's surface; None if that is unknown."""
    if membrane.lamella is None:
        return None
    used = membrane.surface.vertices[np.unique(membrane.surface.faces)]
    return bool(membrane.lamella.depths(used).min() <= membrane.options.edge_width_angstrom)


def _bilayer(membrane: MeasuredMembrane) -> dict[str, float | None]:
    """Return the columns with the bilayer's thickness and its error."""
    bilayer = membrane.bilayer
    thickness, error = (None, None) if bilayer is None else (bilayer.thickness, bilayer.error)
    return {
        "bilayer_thickness_nm": None if thickness is None else thickness / ANGSTROM_PER_NM,
        "bilayer_thickness_error_nm": None if thickness is None or error is None else error / ANGSTROM_PER_NM,
    }


def _over_area(membrane: MeasuredMembrane) -> dict[str, float | None]:
    """Return the columns with quantiles of curvature and mean verticality, weighted by area."""
    (mean, gauss), areas = membrane.curvatures, membrane.surface.vertex_areas
    at_vertices = {scale.name: properties.of_curvatures(scale.name, mean, gauss) for scale in properties.CURVATURES}
    mean_curvature = at_vertices["mean_curvature_per_nm"]
    columns = {
        f"mean_curvature_p{percent:02d}_per_nm": weighted_quantile(mean_curvature, areas, percent / 100)
        for percent in (5, 25, 50, 75, 95)
    }
    columns["abs_mean_curvature_p50_per_nm"] = weighted_quantile(np.abs(mean_curvature), areas, 0.5)
    for name, column in (
        ("gaussian_curvature_per_nm2", "gaussian_curvature_p50_per_nm2"),
        ("largest_curvature_per_nm", "largest_curvature_p50_per_nm"),
        ("least_curvature_per_nm", "least_curvature_p50_per_nm"),
        ("shape_index", "shape_index_p50"),
        ("curvedness_per_nm", "curvedness_p50_per_nm"),
    ):
        columns[column] = weighted_quantile(at_vertices[name], areas, 0.5)
    columns["verticality_mean"] = weighted_mean(properties.verticality(membrane.surface), membrane.surface.face_areas)
    return columns

"""Rows about a membrane itself: its areas, ends, curvature and thickness, and its area in bins of local properties."""

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
    from membrain_cloud.statistics.model.measured_membrane import Measured
    from membrain_cloud.statistics.schema.row import Row

# An inner surface of a vesicle has at least this share of the outer one's area; smaller ones are holes in the slab.
LEAST_INNER_SHARE = 0.2


def membrane_rows(measured: Measured) -> list[Row]:
    """One row: the membrane itself."""
    shell, surface, area = measured.shell, measured.surface, measured.one_sided_area_nm2
    used = shell.vertices[np.unique(shell.faces)]
    volume = shell.volume / ANGSTROM_PER_NM**3 if shell.is_closed and shell.volume > 0.0 else None
    lumen = None if measured.touches_border else _lumen_nm3(shell)
    count = None if measured.picks is None else len(measured.order)
    inner_area, inner_count = _without_edges(measured)
    low, high = used.min(axis=0).tolist(), used.max(axis=0).tolist()
    return [
        {
            "error": None,
            "n_vertices": len(used),
            "n_faces": len(shell.faces),
            "n_components": surface.n_components,
            "shell_area_nm2": float(shell.face_areas.sum()) / ANGSTROM_PER_NM**2,
            "one_sided_area_nm2": area,
            **_leaflet_areas(measured),
            "area_without_edges_nm2": inner_area,
            "is_closed": lumen is not None,
            "is_manifold": shell.is_manifold,
            "has_edge": bool(len(surface.boundary_edges)),
            "touches_border": measured.touches_border,
            "touches_lamella": _touches_lamella(measured),
            "boundary_length_nm": surface.boundary_length / ANGSTROM_PER_NM,
            "rim_length_nm": surface.seam_length / ANGSTROM_PER_NM,
            "euler_characteristic": shell.euler_characteristic,
            "volume_nm3": volume,
            "lumen_volume_nm3": lumen,
            "thickness_nm": volume / area if volume is not None and area else None,
            **_bilayer(measured),
            **{f"box_min_{axis}_angstrom": value for axis, value in zip("xyz", low, strict=True)},
            **{f"box_max_{axis}_angstrom": value for axis, value in zip("xyz", high, strict=True)},
            **_over_area(measured),
            "n_particles": count,
            "particles_per_um2": count / area * 1e6 if count is not None and area else None,
            "n_particles_without_edges": inner_count,
        }
    ]


def class_rows(measured: Measured) -> list[Row]:
    """Particles of each kind: a row a kind there could be; none where no particles were asked for."""
    if measured.picks is None:
        return []
    area, inner_area = measured.one_sided_area_nm2, _without_edges(measured)[0]
    inner = ~measured.is_edge if len(measured.order) else np.zeros(0, bool)
    rows: list[Row] = []
    for kind, name in enumerate(measured.kind_names):
        of_kind = measured.kinds == kind
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


def histogram_rows(measured: Measured) -> list[Row]:
    """Area in bins of local properties: a row a leaflet, property and bin that has area."""
    if measured.one_sided_area_nm2 is None:
        return []
    rows, leaflets = [], measured.face_leaflets
    for found in measured.properties:
        of_sample = leaflets[found.faces]
        for leaflet in np.unique(leaflets).tolist():
            here = of_sample == leaflet
            areas = found.scale.histogram(found.values[here], found.areas[here]) / ANGSTROM_PER_NM**2
            for number in np.flatnonzero(areas > 0.0).tolist():
                rows.append(
                    {
                        "leaflet": None if measured.leaflets is None else leaflet,
                        **found.scale.bin_row(number),
                        "area_nm2": float(areas[number]),
                    }
                )
    return rows


def density_profile_rows(measured: Measured) -> list[Row]:
    """The mean density along the normals: a row a bin of offsets; none where no density is known."""
    bilayer = measured.bilayer
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


def _leaflet_areas(measured: Measured) -> dict[str, float | None]:
    """Without border caps."""
    if measured.leaflets is None:
        return {"outer_leaflet_area_nm2": None, "inner_leaflet_area_nm2": None}
    areas = np.bincount(measured.leaflets, measured.surface.face_areas, minlength=2) / ANGSTROM_PER_NM**2
    return {"outer_leaflet_area_nm2": float(areas[0]), "inner_leaflet_area_nm2": float(areas[1])}


def _without_edges(measured: Measured) -> tuple[float | None, int | None]:
    """One-sided area (nm²) and particles farther than the edge width from the surface's ends."""
    if measured.one_sided_area_nm2 is None:
        return None, None
    (found,) = (values for values in measured.properties if values.scale.name == "distance_to_edge_nm")
    inner = found.values > measured.options.edge_width_nm
    area = float(found.areas[inner].sum()) / 2.0 / ANGSTROM_PER_NM**2
    if measured.picks is None:
        return area, None
    return area, int((~measured.is_edge).sum()) if len(measured.order) else 0


def _lumen_nm3(shell: Surface) -> float | None:
    """Volume within the inner surfaces of a vesicle's shell: those whose outward normals point to its middle."""
    areas = np.bincount(shell.face_components, shell.face_areas)
    inner = 0.0
    for component in np.flatnonzero(areas >= LEAST_INNER_SHARE * areas.max()):
        part = Surface(Mesh(shell.vertices, shell.faces[shell.face_components == component]))
        inner += max(-part.volume, 0.0) if part.is_closed else 0.0
    return inner / ANGSTROM_PER_NM**3 if inner > 0.0 else None


def _touches_lamella(measured: Measured) -> bool | None:
    if measured.lamella is None:
        return None
    used = measured.surface.vertices[np.unique(measured.surface.faces)]
    return bool(measured.lamella.depths(used).min() <= measured.options.edge_width_angstrom)


def _bilayer(measured: Measured) -> dict[str, float | None]:
    found = measured.bilayer
    thickness, error = (None, None) if found is None else (found.thickness, found.error)
    return {
        "bilayer_thickness_nm": None if thickness is None else thickness / ANGSTROM_PER_NM,
        "bilayer_thickness_error_nm": None if thickness is None or error is None else error / ANGSTROM_PER_NM,
    }


def _over_area(measured: Measured) -> dict[str, float | None]:
    """Curvature and verticality of the surface, weighted by area."""
    (mean, gauss), areas = measured.curvatures, measured.surface.vertex_areas
    of_vertices = {scale.name: properties.of_curvatures(scale.name, mean, gauss) for scale in properties.CURVATURES}
    mean_curvature = of_vertices["mean_curvature_per_nm"]
    found = {
        f"mean_curvature_p{percent:02d}_per_nm": weighted_quantile(mean_curvature, areas, percent / 100)
        for percent in (5, 25, 50, 75, 95)
    }
    found["abs_mean_curvature_p50_per_nm"] = weighted_quantile(np.abs(mean_curvature), areas, 0.5)
    for name, column in (
        ("gaussian_curvature_per_nm2", "gaussian_curvature_p50_per_nm2"),
        ("largest_curvature_per_nm", "largest_curvature_p50_per_nm"),
        ("least_curvature_per_nm", "least_curvature_p50_per_nm"),
        ("shape_index", "shape_index_p50"),
        ("curvedness_per_nm", "curvedness_p50_per_nm"),
    ):
        found[column] = weighted_quantile(of_vertices[name], areas, 0.5)
    found["verticality_mean"] = weighted_mean(properties.verticality(measured.surface), measured.surface.face_areas)
    return found

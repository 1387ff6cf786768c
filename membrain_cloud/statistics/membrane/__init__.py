"""Compute properties of one membrane's surface, and of its place in the tomogram.

May import `membrain_cloud.mesh`; none of the modules imports `spatial`, `model` or `rows`.

Modules: `surface_properties` (curvature, verticality, distances, and the bins they are counted in), `bilayer_thickness`
(density along the normals), `gaps` (distances to other membranes), `lamella` (the milled surfaces), `weighted` (means
and quantiles over area).
"""

__all__ = ["bilayer_thickness", "gaps", "lamella", "surface_properties", "weighted"]

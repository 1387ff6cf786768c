"""Columns of the tables on context: the membranes around any particles, and the organelles of membranes."""

from __future__ import annotations

from membrain_cloud.statistics.schema.column import count, flag, number, numbers, text

PARTICLE_CONTEXT = (
    text("picks", "URI of the particles"),
    count("particle_id", "place of the particle in these, from 0"),
    text("object_name", "what the particle is"),
    text(
        "status",
        "`measured`; or why all that follows the position is NULL: `no_membrane` in reach, `outside` of the tomogram, "
        "`no_position`",
    ),
    *numbers(("x_angstrom", "y_angstrom", "z_angstrom"), "Å", "centre"),
    number("distance_nm", "nm", "from the centre to the nearest point of a membrane's surface, within reach"),
    text(
        "side",
        "of the nearest membrane, where it is closed: `outside`, `inside` (in its lumen) or `membrane` (between its "
        "surfaces); NULL for an open membrane, and for one that the tomogram's border cuts",
    ),
    flag("in_membrane", "the centre lies between the membrane's two surfaces; NULL where its mesh is one surface"),
    count("leaflet", "that the nearest point lies on, 0: the larger one (a vesicle's outer one); NULL: not told apart"),
    number(
        "depth_nm",
        "nm",
        "of the centre along the membrane's normal from midway between the leaflets, above 0 on the larger leaflet's "
        "side; from the mesh where it is one surface",
    ),
    number(
        "angle_to_normal_degrees",
        "°",
        "between the particle's z axis and the membrane's normal on the particle's side; NULL without orientation",
    ),
    *numbers(("nearest_x_angstrom", "nearest_y_angstrom", "nearest_z_angstrom"), "Å", "nearest point of the membrane"),
    *numbers(("normal_x", "normal_y", "normal_z"), "", "normal there, out of the membrane on the particle's side"),
    number("mean_curvature_per_nm", "1/nm", "at the nearest point, above 0 where convex seen along the mesh's normals"),
    number("gaussian_curvature_per_nm2", "1/nm²", "at the nearest point"),
    number("largest_curvature_per_nm", "1/nm", "the greater principal curvature k1 at the nearest point"),
    number("least_curvature_per_nm", "1/nm", "the smaller principal curvature k2 at the nearest point"),
    number("shape_index", "", "(2/π) atan((k1 + k2) / (k1 - k2)) at the nearest point"),
    number("curvedness_per_nm", "1/nm", "√((k1² + k2²) / 2) at the nearest point"),
    number("thickness_nm", "nm", "of the segmentation at the nearest point, along the normal; NULL for one surface"),
    number("bilayer_thickness_nm", "nm", "between the leaflets' density peaks about there; NULL if unresolved"),
    number(
        "distance_to_edge_nm",
        "nm",
        "along the membrane from the nearest point to its end (rim, hole or the border's cut); NULL where it has none",
    ),
    flag("touches_border", "the tomogram's border cuts the nearest membrane"),
    count("next_membrane_id", "number of the second nearest membrane; NULL beyond reach"),
    number("distance_to_next_membrane_nm", "nm", "from the centre to the second nearest membrane"),
    count("enclosing_membrane_id", "closed membrane whose lumen holds the centre, the innermost; NULL if none"),
    number("distance_to_border_nm", "nm", "from the centre straight to the tomogram's border"),
    count("n_failed_membranes", "membranes of the tomogram that could not be measured: one of them may be nearer"),
)
"""Columns of `particle_context`, whose key `membrane_id` is the nearest membrane's number."""

PLACED_COLUMNS = tuple(column.name for column in PARTICLE_CONTEXT[4:7])
"""Columns that are known of every particle with a position."""

MEMBRANE_ORGANELLES = (
    text("organelle", "that the membrane belongs to; NULL where it is unknown or ambiguous"),
    count("organelle_number", "label of the object, where each object has one (numbered mitochondria); else NULL"),
    text(
        "rule", "`overlap`: by labels on the membrane; `enclosure`: by the organelle around it; NULL without organelle"
    ),
    number("share", "", "largest share of the membrane's area that lies on an organelle's labels"),
    text("second_organelle", "that has the second largest share; NULL if none"),
    number("second_share", "", "its share; 0 if none"),
    number("enclosed_share", "", "share of area inside the organelle with its holes filled; NULL unless by enclosure"),
    flag("is_ambiguous", "organelles have a share, and none of them enough"),
    number("area_nm2", "nm²", "of the mesh without border caps, both sides of a shell: what the shares are of"),
    text("organelles_uri", "URIs of the organelles, a comma between two"),
)

ORGANELLE_SHARES = (
    text("organelle", "an organelle with a share of the membrane"),
    number("share", "", "of the membrane's area on its labels"),
    number("area_nm2", "nm²", "that area"),
    number("enclosed_share", "", "of the area inside it with its holes filled; NULL where labels had decided"),
)

"""Draw reports: self-contained HTML pages, figures as PNG, and plots for notebooks.

May import `geometry`, `units` and `errors`, matplotlib, Pillow and Jinja2. It reads no store: `pipeline.reporting`
gathers the data.

Modules:

- `data`: what a report is made of. `page`, `site`: the HTML pages. `theme`: colours.
- `figures`: slices, surfaces and curves of a page. `rendering`: meshes and spheres to pixels.
- `plots`: plots of the frames of `membrain_cloud.tables`, on axes that the caller gives.
- `score_figure`, `mesh_figure`, `training_figures`: figures of evaluations and trainings.
- `viewer_state`, `neuroglancer_page`: one tomogram in Neuroglancer.
"""

__all__ = [
    "data",
    "figures",
    "mesh_figure",
    "neuroglancer_page",
    "page",
    "plots",
    "rendering",
    "score_figure",
    "site",
    "theme",
    "training_figures",
    "viewer_state",
]

"""Read the tables of a project as pandas frames, and compute curves and densities from them.

May import `store` (reading tables), `statistics` (curves from counts) and `errors`; pandas and numpy, and no Dask.

    from membrain_cloud import tables

    found = tables.open("project/config.json")        # or the folder (or s3:// URL) of the tables
    found.frame("membranes")                          # a table as it is stored
    found.sql("select run_name, sum(n_particles) from membranes group by all")    # with DuckDB
    found.concentration(by="dataset")                 # particles per µm²
    found.nearest_neighbors(by="object_name")         # histogram and mean of distances
    found.ripley(by=["run_name"])                     # g, O, K, L with envelopes
    found.significance()                              # p-values against randomness
    found.peaks()                                     # preferred spacings, each with its error
    found.histogram("mean_curvature_per_nm")          # area in bins of a property
    found.density_against("distance_to_edge_nm")      # particles per µm² in bins of a property
    found.neighbors_against("mean_curvature_per_nm")  # distance to the nearest neighbour in bins of a property
    found.ripley_against("distance_to_edge_nm")       # g, O, K, L in bins of a property
    found.membrane_pairs(); found.chains(); found.in_plane_angles(); found.density_profile()

`by` is one column or several: key columns (dataset, run_name, tomogram_id, membrane_id, ...), component_id where the
table has one, or columns that `where` (a frame with key columns) adds. Ratios are taken of sums, so a large membrane
counts by its area. Unknown numbers are NaN.
"""

from membrain_cloud.tables.analysis import Analysis, open

__all__ = ["Analysis", "open"]

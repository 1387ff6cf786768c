"""Read the tables of a project as pandas frames, and compute curves and densities from them.

May import `store` (reading tables), `statistics` (curves from counts) and `errors`; pandas, numpy and xarray, no Dask.

    from membrain_cloud import tables

    analysis = tables.open("project/config.json")     # or the folder (or s3:// URL) of the tables
    analysis.frame("membranes")                       # a table as it is stored
    analysis.sql("select run_name, sum(n_particles) from membranes group by all")  # with DuckDB
    analysis.concentration(by="dataset")              # particles per µm²
    analysis.nearest_neighbors(by="object_name")      # histogram and mean of distances
    analysis.ripley(by=["run_name"])                  # g, O, K, L with envelopes
    analysis.ripley_dataset(by=["run_name", "membrane_id"])  # the same curves as an xarray.Dataset
    analysis.significance()                           # p-values against randomness
    analysis.peaks()                                  # preferred spacings, each with its error
    analysis.histogram("mean_curvature_per_nm")       # area in bins of a property
    analysis.density_against("distance_to_edge_nm")   # particles per µm² in bins of a property
    analysis.neighbors_against("mean_curvature_per_nm")  # distance to the nearest neighbour in bins of a property
    analysis.ripley_against("distance_to_edge_nm")    # g, O, K, L in bins of a property
    tables.open("project/config.json", organelles=True)  # adds `organelle` to the columns to group by
    analysis.organelle_contacts()                     # gaps and contact areas of pairs of organelles
    analysis.membrane_pairs(); analysis.chains(); analysis.in_plane_angles(); analysis.density_profile()

`by` is one column or several: key columns (dataset, run_name, tomogram_id, membrane_id, ...), component_id where the
table has one, or columns that `where` (a frame with key columns) adds. Ratios are taken of sums, so a large membrane
counts by its area. Unknown numbers are NaN.
"""

from membrain_cloud.tables.analysis import Analysis, open

__all__ = ["Analysis", "open"]

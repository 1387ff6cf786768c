"""Pages of a run's results: the report, a site of reports, Neuroglancer's state. Reads the project and its tables.

It may import `execution`, `planning`, `stages`, the modules of `pipeline` itself, and `report`, which draws the pages.

Modules
-------
report : the self-contained report page.
site : an index with a page for each tomogram.
statistics : curves and tables of the pages.
neuroglancer : the state that Neuroglancer shows.
"""

__all__ = ["neuroglancer", "report", "site", "statistics"]

"""Commands, one module for each group. They import `cli.app`, `cli.options` and `cli.display`, and never each other.

- `diff`: what changed between two annotations
- `evaluate`: scores against true annotations
- `exchange`: import from and export to files of other programs, and depositions for the portal
- `inspect`: plan, status, failures, verify, clean, report
- `measure`: particles of any program in the context of membranes
- `models`: model files
- `patches`: patches for annotators to correct
- `portal`: tomograms of the CryoET Data Portal
- `preprocess`: pixel size, amplitude spectrum, deconvolution
- `project`: demo, project init, project manifest
- `run`: all stages
- `sbom`: installed packages
- `segment`: segment, thresholds, components, skeletonize
- `tables`: Parquet tables
- `train`: networks
- `view`: one run in Neuroglancer
"""

__all__ = [
    "diff",
    "evaluate",
    "exchange",
    "inspect",
    "measure",
    "models",
    "patches",
    "portal",
    "preprocess",
    "project",
    "run",
    "sbom",
    "segment",
    "tables",
    "train",
    "view",
]

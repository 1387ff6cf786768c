"""Commands, one module for each group. They import `cli.app`, `cli.options` and `cli.display`, and never each other.

- `diff`: what changed between two annotations
- `evaluate`: scores against true annotations
- `export_deposition`, `export_files`: annotations for the portal, and as files of other programs
- `import_files`: annotations from files of other programs
- `inspect`: plan, status, failures, verify, clean, report
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
    "export_deposition",
    "export_files",
    "import_files",
    "inspect",
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

"""The optional dependencies: which extra brings which package, and the error for one that is not installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

from membrain_cloud.errors import UsageError

EXTRAS: dict[str, tuple[str, ...]] = {
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
    "portal": ("s3fs",),
    "view": ("neuroglancer",),
    "exchange": ("h5py",),
    "kubernetes": ("kr8s",),
    "dashboard": ("bokeh",),
    "notebook": ("duckdb", "ipykernel", "nbclient", "nbformat"),
}
"""Modules that each extra of the package brings, without those for tests and documentation."""

_PURPOSES = {
    "s3": "s3:// URLs",
    "gcs": "gs:// URLs",
    "azure": "abfs:// URLs",
    "portal": "tomograms of the CryoET Data Portal",
    "view": "the command view",
    "exchange": "HDF5 files",
    "kubernetes": "scaling on Kubernetes",
    "dashboard": "Dask's dashboard and report",
    "notebook": "notebooks and SQL on the tables",
}


def purpose(extra: str) -> str:
    """Return what an extra of `EXTRAS` is for, in a few words."""
    return _PURPOSES[extra]


def missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra of `EXTRAS` that are not installed; nothing is imported."""
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]


def missing_package(error: ImportError) -> UsageError | None:
    """Return the error for a package that is not installed, with the command that installs it.

    Parameters
    ----------
    error : ImportError
        The error of an import, or fsspec's `Please install gcsfs to access Google Storage`.

    Returns
    -------
    UsageError or None
        None where a module of this package is missing, or a name within a module: that is a bug.
    """
    module = _module(error)
    if module is None or module == "membrain_cloud":
        return None
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is not None:
        return UsageError(
            f"the package {module} is not installed, which {purpose(extra)} needs",
            f"install the extra: pip install 'membrain_cloud[{extra}]'",
        )
    if _is_required(module):
        return UsageError(f"the package {module} is not installed", "install it: pip install membrain_cloud")
    return UsageError(f"the package {module} is not installed", f"install it: pip install {module}")


def _module(error: ImportError) -> str | None:
    """Return the top-level module that an import did not find, or None where it is another fault."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    named = re.match(r"(?:Please )?[Ii]nstall ([\w-]+)\b", str(error))
    return named[1].replace("-", "_") if named else None


def _is_required(module: str) -> bool:
    """Return whether this package requires a package of the module's name."""
    try:
        required = importlib.metadata.requires("membrain_cloud") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line}
    return module.lower() in {name.replace("-", "_").lower() for name in names}

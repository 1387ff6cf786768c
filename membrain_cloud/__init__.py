"""Membranes in cryo-electron tomograms: segmented, meshed, picked and measured, from a laptop to Kubernetes.

The public API. It is loaded by name at first use, so that `import membrain_cloud` and the command line stay quick.

>>> import membrain_cloud as mc
>>> phantom = mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)
>>> labels = mc.segment(phantom.density, voxel_spacing_angstrom=10.0)
>>> instances = mc.separate(labels, min_voxels=500)
>>> meshes = mc.mesh(instances, voxel_spacing_angstrom=10.0)
>>> picks = mc.pick(meshes, phantom.density, voxel_spacing_angstrom=10.0)
>>> rows = mc.measure(meshes, picks)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from membrain_cloud import tables
    from membrain_cloud.api.arrays import measure, mesh, pick, segment, separate
    from membrain_cloud.api.context import measure_picks, particle_context
    from membrain_cloud.api.phantoms import simulate
    from membrain_cloud.api.projects import open_project, plan, run
    from membrain_cloud.api.tomograms import open_tomogram
    from membrain_cloud.api.volumes import Volume, read_volume
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.geometry import Mesh, Picks
    from membrain_cloud.pipeline.settings import Settings

__all__ = [
    "MembrainCloudError",
    "Mesh",
    "Picks",
    "Settings",
    "Volume",
    "__version__",
    "measure",
    "measure_picks",
    "mesh",
    "open_project",
    "open_tomogram",
    "particle_context",
    "pick",
    "plan",
    "read_volume",
    "run",
    "segment",
    "separate",
    "simulate",
    "tables",
]

# Public name -> the module that defines it. `tables` is a module itself.
_MODULES = {
    "MembrainCloudError": "errors",
    "Mesh": "geometry",
    "Picks": "geometry",
    "Settings": "pipeline.settings",
    "Volume": "api.volumes",
    "measure": "api.arrays",
    "measure_picks": "api.context",
    "open_project": "api.projects",
    "open_tomogram": "api.tomograms",
    "particle_context": "api.context",
    "pick": "api.arrays",
    "plan": "api.projects",
    "read_volume": "api.volumes",
    "run": "api.projects",
    "segment": "api.arrays",
    "separate": "api.arrays",
    "simulate": "api.phantoms",
}


def __getattr__(name: str) -> Any:
    if name in ("mesh", "tables"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


class _CallablePackage(ModuleType):
    """The package `mesh`, which is the public function `mesh` when it is called."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("membrain_cloud.api.arrays").mesh(*arguments, **options)


class _Package(ModuleType):
    """Make the package `mesh` callable when its import binds that name here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "mesh" and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

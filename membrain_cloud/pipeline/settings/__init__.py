"""Every setting of a run, with its default and its meaning: one class for each section of a settings file.

This package may import `errors` alone (and the statistics' names of properties and options, inside functions). The
descriptions of the fields are the users' reference: docs/generate.py writes docs/settings.md from them.

Modules
-------
section
    The base class of all sections, and the types of fields.
segment, membranes, pick, measure, context, organelle
    What the stages take.
run
    Names of results, limits of a run, prices, the CryoET Data Portal.
load
    All sections together, read from a YAML file and from `stage.key=value`.
"""

from membrain_cloud.pipeline.settings.context import ContextSettings
from membrain_cloud.pipeline.settings.load import Settings, load_settings, settings_from
from membrain_cloud.pipeline.settings.measure import MeasureSettings
from membrain_cloud.pipeline.settings.membranes import MeshSettings, SeparateSettings
from membrain_cloud.pipeline.settings.organelle import OrganelleSettings
from membrain_cloud.pipeline.settings.pick import PickSettings
from membrain_cloud.pipeline.settings.run import OutputSettings, PlanSettings, PortalSettings, RunSettings
from membrain_cloud.pipeline.settings.section import Section
from membrain_cloud.pipeline.settings.segment import InputSettings, SegmentSettings

__all__ = [
    "ContextSettings",
    "InputSettings",
    "MeasureSettings",
    "MeshSettings",
    "OrganelleSettings",
    "OutputSettings",
    "PickSettings",
    "PlanSettings",
    "PortalSettings",
    "RunSettings",
    "Section",
    "SegmentSettings",
    "SeparateSettings",
    "Settings",
    "load_settings",
    "settings_from",
]

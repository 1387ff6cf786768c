"""All sections of settings together, and how they are read from a YAML file and from `stage.key=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings.context import ContextSettings
from membrain_cloud.pipeline.settings.measure import MeasureSettings
from membrain_cloud.pipeline.settings.membranes import MeshSettings, SeparateSettings
from membrain_cloud.pipeline.settings.organelle import OrganelleSettings
from membrain_cloud.pipeline.settings.pick import PickSettings
from membrain_cloud.pipeline.settings.run import OutputSettings, PlanSettings, PortalSettings, RunSettings
from membrain_cloud.pipeline.settings.section import Section
from membrain_cloud.pipeline.settings.segment import InputSettings, SegmentSettings
from membrain_cloud.pipeline.settings.suggestions import suggest


class Settings(Section):
    """All settings of a run, one attribute for each section.

    Parameters
    ----------
    **sections : mapping or Section
        Values of each section; what is absent keeps its default.

    Raises
    ------
    UsageError
        If a section or key is unknown, or a value is out of range.
    """

    input: InputSettings = InputSettings()
    segment: SegmentSettings = SegmentSettings()
    separate: SeparateSettings = SeparateSettings()
    mesh: MeshSettings = MeshSettings()
    pick: PickSettings = PickSettings()
    measure: MeasureSettings = MeasureSettings()
    context: ContextSettings = ContextSettings()
    organelle: OrganelleSettings = OrganelleSettings()
    output: OutputSettings = OutputSettings()
    run: RunSettings = RunSettings()
    plan: PlanSettings = PlanSettings()
    portal: PortalSettings = PortalSettings()

    def __init__(self, **sections: Any) -> None:
        for name, content in sections.items():
            _require_section(name)
            if not isinstance(content, Mapping | Section):
                raise UsageError(
                    f"setting {name}: expected a mapping of keys, got {content!r}",
                    f"write the keys below it, e.g. `{name}: {{{next(iter(_section(name).model_fields))}: ...}}`",
                )
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise _usage_error(error) from None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries for JSON; `settings_from` reads them back."""
        return self.model_dump(mode="json")


def load_settings(file: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings: the defaults, then a YAML file, then single values.

    Parameters
    ----------
    file : str, Path or None
        YAML file with one mapping for each section. Default: no file.
    overrides : sequence of str
        Single values of the form `stage.key=value`, which go before the file's.

    Returns
    -------
    Settings
        The settings, checked.

    Raises
    ------
    UsageError
        If the file cannot be read, a section or key is unknown (the nearest names are suggested), or a value is out of
        range.
    """
    values = _read_yaml(Path(file)) if file is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            raise UsageError(
                f"setting {override!r}: not of the form stage.key=value", "write for example segment.threshold=0.5"
            )
        _require_section(section)
        values.setdefault(section, {})[name] = value.strip()
    return settings_from(values)


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Make checked settings of nested mappings.

    Parameters
    ----------
    values : mapping
        Section -> key -> value; what is absent keeps its default.

    Returns
    -------
    Settings
        The settings, checked.

    Raises
    ------
    UsageError
        As `load_settings`.
    """
    return Settings(**{str(section): content for section, content in values.items()})


def _read_yaml(file: Path) -> dict[str, dict[str, Any]]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"settings file {file}: {error.strerror}", "give a readable YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"settings file {file}: not YAML: {cause}", "correct the file at that place") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"settings file {file}: expected one mapping for each section",
            "write for example `segment: {threshold: 0.5}`",
        )
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _section(name: str) -> type[Section]:
    return type(Settings.model_fields[name].default)


def _require_section(section: str) -> None:
    if section not in Settings.model_fields:
        raise UsageError(f"unknown setting {section}", suggest(str(section), list(Settings.model_fields)))


def _usage_error(error: ValidationError) -> UsageError:
    """Translate pydantic's first complaint."""
    first = error.errors()[0]
    if len(first["loc"]) == 1:  # about a section as a whole
        return UsageError(f"settings of {first['loc'][0]}: {first['msg']}", "change one of the settings named")
    section, name = str(first["loc"][0]), str(first["loc"][1])
    if first["type"] == "extra_forbidden":
        every_key = [f"{other}.{key}" for other in Settings.model_fields for key in _section(other).model_fields]
        same_name = [key for key in every_key if key.endswith(f".{name}")]
        hint = f"did you mean {same_name[0]}?" if same_name else suggest(name, list(_section(section).model_fields))
        return UsageError(f"unknown setting {section}.{name}", hint)
    reason = first["msg"][0].lower() + first["msg"][1:]
    return UsageError(f"setting {section}.{name} = {first['input']!r}: {reason}", f"give another {section}.{name}")

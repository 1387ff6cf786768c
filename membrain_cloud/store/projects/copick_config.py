"""Copick configs: reading and checking them, and the pickable objects that they list.

Configs are checked and made with copick's own models. Only the process that plans does so: a worker opens a config that
was checked before, and does not import copick. Entries and keys that copick does not know are kept.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Protocol

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.objects.lock import object_lock
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import check_object_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COPICK_VERSION = "1.31.0"
"""The version of copick whose format configs and results have; copick 2 reads it as well."""
_MAKE_ONE = "give a copick config.json, or make one: membrain-cloud project init"


class PickableObjects(Protocol):
    """The objects that annotations of a project may be of.

    Attributes
    ----------
    settings : Mapping
        The copick config of the project, or a stand-in for it. Its `pickable_objects` lists the objects.
    """

    settings: Mapping[str, Any]

    def ensure(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add an object, unless it exists.

        Parameters
        ----------
        name : str
            Name of the object.
        is_particle : bool
            Whether it is a particle or a segmented object.
        identifier : str or None
            Identifier in the Gene Ontology or UniProt.

        Raises
        ------
        ProjectError
            If it exists as the other kind.
        """


class ConfigObjects:
    """The pickable objects of a copick config.

    Parameters
    ----------
    config : str
        Path or URL of the config.
    settings : Mapping
        Its content, with the objects that a Croissant manifest contributes.
    """

    def __init__(self, config: str, settings: Mapping[str, Any]) -> None:
        self._config = config
        self.settings: Mapping[str, Any] = dict(settings)

    def ensure(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add an object to the config, unless it exists.

        Parameters
        ----------
        name : str
            Name of the object.
        is_particle : bool
            Whether it is a particle or a segmented object.
        identifier : str or None
            Identifier in the Gene Ontology or UniProt.

        Raises
        ------
        ProjectError
            If it exists as the other kind.
        """
        inherited = self.settings["pickable_objects"]
        config = ensure_object(self._config, name, is_particle=is_particle, identifier=identifier, inherited=inherited)
        self.settings = {**self.settings, **config}


def read_config(config: str, *, checked: bool = False) -> dict[str, Any]:
    """Return the content of a copick config.

    Parameters
    ----------
    config : str
        Path or fsspec URL of the config.
    checked : bool
        Whether the process that planned has checked it before, as for a worker. Default: False.

    Raises
    ------
    ProjectError
        If it is absent, is not a copick config, or is of a type that cannot be opened.
    """
    files, name = _config_file(config)
    try:
        settings = json.loads(files.read(name))
    except FileNotFoundError as error:
        raise ProjectError(
            f"{config}: there is no such config",
            _MAKE_ONE,
        ) from error
    except ValueError as error:
        raise ProjectError(f"{config} is not JSON ({error})", "give a copick config.json") from error
    if not checked:
        check_config(config, settings)
    return dict(settings)


def read_config_if_any(config: str | None) -> dict[str, Any]:
    """Return the content of a copick config, or an empty mapping if it is None, absent or not a JSON object.

    Parameters
    ----------
    config : str or None
        Path or URL of the config.
    """
    if config is None:
        return {}
    folder, _, name = config.rpartition("/")
    try:
        settings = json.loads(Files(folder or "/").read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def new_config(
    name: str,
    description: str,
    overlay: Files,
    *,
    objects: Sequence[Mapping[str, Any]],
    overlay_fs_args: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the text of a new copick config of type filesystem.

    Parameters
    ----------
    name : str
        Name of the project.
    description : str
        What the project is.
    overlay : Files
        The store that results are written to.
    objects : sequence of Mapping
        Entries of `pickable_objects`; see `pickable_object`.
    overlay_fs_args : Mapping, optional
        Arguments of fsspec for the overlay.
    """
    from copick.impl.filesystem import CopickConfigFSSpec

    settings = CopickConfigFSSpec(
        config_type="filesystem",
        name=name,
        description=description,
        version=COPICK_VERSION,
        pickable_objects=list(objects),
        user_id="user",
        overlay_root=f"local://{overlay.url}" if overlay.local else overlay.url,
        overlay_fs_args=dict(overlay_fs_args or {}) | ({"auto_mkdir": True} if overlay.local else {}),
    )
    return json.dumps(settings.model_dump(mode="json", exclude_unset=True), indent=4).encode()


def pickable_object(
    others: Sequence[Mapping[str, Any]], name: str, *, is_particle: bool, identifier: str | None
) -> dict[str, Any]:
    """Return an entry of a config's `pickable_objects`.

    Parameters
    ----------
    others : sequence of Mapping
        The other entries of the config; label and colour of the new one differ from theirs.
    name : str
        Name of the object.
    is_particle : bool
        Whether the object is a particle, which has picks, or a segmented object.
    identifier : str or None
        Identifier in the Gene Ontology or UniProt, e.g. `GO:0016020`.

    Raises
    ------
    BadNameError
        If the name is not safe in copick's file names.
    """
    taken = {other.get("label") for other in others}
    label = next(number for number in range(1, len(others) + 2) if number not in taken)
    colour = [64 + (97 * label) % 192, 64 + (157 * label) % 192, 64 + (41 * label) % 192, 255]
    from copick.models import PickableObject

    entry = {"name": check_object_name(name, "object"), "is_particle": is_particle, "label": label, "color": colour}
    entry |= {"identifier": identifier} if identifier else {}
    return dict(PickableObject(**entry).model_dump(mode="json", exclude_unset=True))


def ensure_object(
    config: str,
    name: str,
    *,
    is_particle: bool,
    identifier: str | None,
    options: Mapping[str, Any] | None = None,
    inherited: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Add a pickable object to a copick config of any type, unless it exists.

    Parameters
    ----------
    config : str
        Path or URL of the config.
    name : str
        Name of the object.
    is_particle : bool
        Whether the object is a particle or a segmented object.
    identifier : str or None
        Identifier of the object; it is added to an entry that has none.
    options : Mapping, optional
        Arguments of fsspec to reach the config.
    inherited : sequence of Mapping
        Objects of a config that lists none itself, because a Croissant manifest does. They are written with the new
        one: copick reads the manifest's only if the config lists none.

    Returns
    -------
    dict
        The content of the config afterwards.

    Raises
    ------
    ProjectError
        If the object exists as the other kind.
    """
    files, file = _config_file(config, options)

    def current() -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(files.read(file))
        settings["pickable_objects"] = settings.get("pickable_objects") or [dict(entry) for entry in inherited]
        return settings

    settings = current()
    if _has_object(config, settings, name, is_particle=is_particle, identifier=identifier):
        return settings
    with object_lock(files, file):
        settings = current()  # another process may have written it meanwhile
        if not _has_object(config, settings, name, is_particle=is_particle, identifier=identifier):
            objects = settings["pickable_objects"]
            entry = next((entry for entry in objects if entry["name"] == name), None)
            if entry is None:
                objects.append(pickable_object(objects, name, is_particle=is_particle, identifier=identifier))
            else:
                entry["identifier"] = identifier
            files.write(file, json.dumps(settings, indent=4).encode())
    return settings


def _has_object(
    config: str, settings: Mapping[str, Any], name: str, *, is_particle: bool, identifier: str | None
) -> bool:
    """Return whether a config lists an object, with an identifier if one is given; ProjectError if of other kind."""
    for entry in settings["pickable_objects"]:
        if entry["name"] == name:
            if bool(entry["is_particle"]) != is_particle:
                kind = "a particle" if entry["is_particle"] else "a segmented object"
                raise ProjectError(f"object {name!r} of {config} is {kind}", "choose another object name")
            return identifier is None or bool(entry.get("identifier"))
    return False


def _config_file(config: str, options: Mapping[str, Any] | None = None) -> tuple[Files, str]:
    folder, _, name = config.rpartition("/")
    return Files(folder or ("/" if config.startswith("/") else "."), options), name


def check_config(config: str, settings: Any) -> None:
    """Check the content of a config with copick's models.

    Parameters
    ----------
    config : str
        Path or URL of the config, for error messages.
    settings : Any
        Its content.

    Raises
    ------
    ProjectError
        If copick would refuse it, or it is of a type that cannot be opened here.
    """
    from copick.impl.filesystem import CopickConfigFSSpec
    from copick.impl.mlcroissant import CopickConfigMLCroissant
    from pydantic import ValidationError

    kind = settings.get("config_type", "filesystem") if isinstance(settings, dict) else "filesystem"
    models = {"filesystem": CopickConfigFSSpec, "mlcroissant": CopickConfigMLCroissant}
    if kind == "cryoet_data_portal":
        raise ProjectError(
            f"{config}: projects of type {kind!r} name whole datasets, and a run needs its tomograms named",
            "select them once, and give the manifest: membrain-cloud portal select",
        )
    if kind not in models:
        raise ProjectError(
            f"{config}: projects of type {kind!r} cannot be opened here",
            "copy what you need into a project of type 'filesystem': copick sync",
        )
    if kind == "mlcroissant":
        # Copick takes the objects of the manifest where the config lists none.
        settings = {"pickable_objects": [], **settings}
    try:
        with warnings.catch_warnings():  # it also warns of each name that it refuses
            warnings.simplefilter("ignore", UserWarning)
            models[kind].model_validate(settings)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]]
        raise ProjectError(f"{config} is not a copick config ({'; '.join(wrong)})", _MAKE_ONE) from error
    if kind == "mlcroissant" and not settings.get("overlay_root"):
        raise ProjectError(
            f"{config} has no overlay_root, and the data that a Croissant manifest lists are read only",
            "give overlay_root in the config, a folder for results",
        )

"""Trees of projects that a Croissant manifest describes: copick's `mlcroissant` configs.

A `metadata.json` and CSV tables beside it list the volumes, meshes and picks files, and where each is: in the dataset's
own tree, or at any URL, as in a manifest exported from the data portal. All of it is only read; results go to the
config's overlay. The tables are read when the project is opened.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import BadNameError, ProjectError, VoxelSpacingError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef, is_safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from membrain_cloud.store.objects.io_meter import Meter

_LOCAL = ("file://", "local://")
_TRUE = ("true", "1", "yes")


@dataclass(frozen=True)
class CroissantTree:
    """The entries of a manifest as the folders that copick would have made of them; read-only. A `layers.Layer`.

    Attributes
    ----------
    base_url : str
        Path or URL that relative places are below.
    options : Mapping
        Arguments of fsspec to read the entries.
    places : Mapping
        Copick's path of each entry to its URL, or its path below `base_url`.
    folders : Mapping
        Names in each of copick's folders; True for folders and volumes.
    meter : Meter or None
        Counts what is read.
    """

    base_url: str
    options: Mapping[str, Any]
    places: Mapping[str, str]
    folders: Mapping[str, Mapping[str, bool]]
    meter: Meter | None = None
    _stores: dict[str, Files] = field(default_factory=dict, init=False, repr=False, compare=False)

    def metered(self, meter: Meter) -> CroissantTree:
        """Return the same tree with `meter` counting what is read through it.

        Parameters
        ----------
        meter : Meter
            What counts.
        """
        return replace(self, meter=meter)

    def find(self, path: str) -> tuple[Files, str] | None:
        """Return the store and the path there of an entry, or None if the manifest does not list it.

        Parameters
        ----------
        path : str
            Path of the entry, as the manifest lists it.
        """
        url = self.places.get(path.strip("/"))
        if url is None:
            return None
        root, inside = (self.base_url, url) if not _is_absolute(url) else _split(url)
        if root not in self._stores:
            files = Files(root, self.options)
            self._stores[root] = files if self.meter is None else files.metered(self.meter)
        return self._stores[root], inside.strip("/")

    def exists(self, path: str) -> bool:
        """Return whether the manifest lists an entry, or one below a folder.

        Parameters
        ----------
        path : str
            Path of the entry or folder, as the manifest lists it.
        """
        return path.strip("/") in self.places or path.strip("/") in self.folders

    def children(self, path: str) -> dict[str, bool]:
        """Return the names directly below a folder, sorted; True for folders and volumes.

        Parameters
        ----------
        path : str
            Path of the folder, as the manifest lists it.
        """
        return dict(sorted(self.folders.get(path.strip("/"), {}).items()))

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Parameters
        ----------
        path : str
            Path of the file, as the manifest lists it.

        Raises
        ------
        FileNotFoundError
            If it is not listed, or not where the manifest says.
        """
        place = self.find(path)
        if place is None:
            raise FileNotFoundError(path)
        return place[0].read(place[1])


def open_croissant(config: str, settings: Mapping[str, Any]) -> tuple[CroissantTree, list[dict[str, Any]]]:
    """Open the Croissant manifest that a copick config of type `mlcroissant` names.

    Rows with unsafe names, and volumes of several labels, are skipped.

    Parameters
    ----------
    config : str
        Path or URL of the config, for error messages.
    settings : Mapping
        Its content.

    Returns
    -------
    tree : CroissantTree
        What the manifest lists.
    objects : list of dict
        The pickable objects of the config, or else of the manifest.

    Raises
    ------
    ProjectError
        If the manifest is absent or torn, or leads out of its root.
    """
    url = settings.get("croissant_url")
    if not isinstance(url, str) or not url:
        raise ProjectError(f"{config} has no croissant_url", "make it again: copick config mlcroissant")
    folder, _, name = _plain(url).rpartition("/")
    files = Files(folder or ".", settings.get("croissant_fs_args"))
    try:
        document = json.loads(files.read(name))
        block = dict(document.get("copick:config") or {})
    except FileNotFoundError as error:
        raise ProjectError(f"{config}: there is no {url}", "correct croissant_url in the config") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ProjectError(f"{url} is no Croissant manifest ({error})", "export it again with copick") from error
    base_url = str(settings.get("croissant_base_url") or document.get("copick:baseUrl") or files.url.rpartition("/")[0])
    base, is_remote = _plain(base_url), not files.local
    if is_remote and not _is_remote(base):
        raise ProjectError(
            f"{url}: its base URL is a path on this machine ({base})", "give croissant_base_url in the config"
        )
    tables = _Tables(files, document, url)
    places = {path: _checked(place, url, is_remote) for path, place in _entries(tables)}
    runs = [row["name"] for row in tables.rows("runs") if is_safe_name(row.get("name"))]
    tree = CroissantTree(base.rstrip("/"), dict(settings.get("static_fs_args") or {}), places, _folders(places, runs))
    return tree, list(settings.get("pickable_objects") or block.get("pickable_objects") or [])


def _folders(places: Mapping[str, str], runs: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return the names in each of copick's folders, of all entries and runs."""
    folders: dict[str, dict[str, bool]] = {}
    for path in [*places, *(f"ExperimentRuns/{run}/" for run in runs)]:
        parts = path.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            folder, name = "/".join(parts[:depth]), parts[depth]
            is_folder = depth + 1 < len(parts) or name.endswith(".zarr") or path.endswith("/")
            folders.setdefault(folder, {})[name] = is_folder
    return folders


class _Tables:
    """The CSV tables beside a manifest."""

    def __init__(self, files: Files, document: Mapping[str, Any], url: str) -> None:
        self.files, self.url = files, url
        entries = document.get("distribution") or []
        self.content_urls = {str(entry.get("@id")): str(entry.get("contentUrl") or "") for entry in entries}

    def rows(self, table: str) -> list[dict[str, str]]:
        """Return the rows of a table, empty if the manifest has none; raise ProjectError if its file is absent."""
        if f"{table.replace('_', '-')}-csv" not in self.content_urls:
            return []
        try:
            text = self.files.read(f"{table}.csv").decode()
        except FileNotFoundError as error:
            raise ProjectError(
                f"{self.url}: its {table}.csv is not beside it", "export it again with copick"
            ) from error
        except UnicodeDecodeError as error:
            raise ProjectError(f"{self.url}: its {table}.csv is no text ({error})", "export it again") from error
        return list(csv.DictReader(io.StringIO(text)))


def _entries(tables: _Tables) -> Iterator[tuple[str, str]]:
    """Iterate over copick's path and the URL of each row with a safe name."""
    path_of: dict[str, Callable[[Mapping[str, str]], str | None]] = {
        "tomograms": lambda row: TomogramRef(row["run"], row["tomo_type"], float(row["voxel_size"])).path,
        "features": lambda row: (
            FeaturesRef(row["run"], row["tomo_type"], float(row["voxel_size"]), row["feature_type"]).path
        ),
        "segmentations": lambda row: (
            None if row.get("is_multilabel", "").lower() in _TRUE else _segmentation(row, instance=False)
        ),
        "instance_segmentations": lambda row: _segmentation(row, instance=True),
        "meshes": lambda row: _object(row).mesh_path,
        # The portal's own points are lines of voxels, not copick's picks.
        "picks": lambda row: None if row["url"].endswith(".ndjson") else _object(row).picks_path,
    }
    for table, path_of_row in path_of.items():
        for row in tables.rows(table):
            try:
                path = path_of_row(row)
            except (BadNameError, VoxelSpacingError, ValueError, KeyError, TypeError):
                continue
            if path is not None and row.get("url"):
                yield path, row["url"]


def _segmentation(row: Mapping[str, str], *, instance: bool) -> str:
    spacing = float(row["voxel_size"])
    return SegmentationRef(row["run"], row["name"], row["user_id"], row["session_id"], spacing, instance).path


def _object(row: Mapping[str, str]) -> ObjectRef:
    return ObjectRef(row["run"], row["object_name"], row["user_id"], row["session_id"])


def _checked(place: str, url: str, is_remote: bool) -> str:
    """Return the URL of a row; it must not lead out of its root, nor from a remote manifest to this machine."""
    plain = _plain(place)
    if ".." in plain.split("/") or (is_remote and _is_absolute(plain) and not _is_remote(plain)):
        raise ProjectError(f"{url}: it leads to {place}, out of its root", "do not use a manifest like this")
    return plain


def _plain(url: str) -> str:
    for prefix in _LOCAL:
        url = url.removeprefix(prefix)
    return url


def _is_remote(url: str) -> bool:
    return "://" in url


def _is_absolute(url: str) -> bool:
    return _is_remote(url) or url.startswith("/")


def _split(url: str) -> tuple[str, str]:
    """Split an absolute URL into a root (scheme and host, or bucket) and the rest."""
    if not _is_remote(url):
        return "/", url
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", path

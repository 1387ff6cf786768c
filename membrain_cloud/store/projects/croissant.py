"""Projects that a Croissant manifest describes: copick's `mlcroissant` configs.

A `metadata.json` and CSV tables beside it name what there is, and where each volume, mesh and picks file lies: in the
dataset's own tree, or anywhere a URL leads, as for a manifest exported from the data portal. All of it is only read;
results go to the config's overlay. The tables are read when the project is opened.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import BadNameError, ProjectError, VoxelSpacingError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef, is_safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.store.objects.io_meter import Meter

_LOCAL = ("file://", "local://")
_TRUE = ("true", "1", "yes")


class CroissantTree:
    """What a manifest lists, as the tree of folders that copick would have made of it; read-only.

    Rows with names that must not become paths, and multilabel and panoptic volumes, are passed over.
    """

    def __init__(self, base_url: str, options: Mapping[str, Any], places: Mapping[str, str], runs: list[str]) -> None:
        self._base_url, self._options = base_url.rstrip("/"), dict(options)
        self._places = dict(places)
        self._meter: Meter | None = None
        self._stores: dict[str, Files] = {}
        self._folders: dict[str, dict[str, bool]] = {}
        for path in [*self._places, *(f"ExperimentRuns/{run}/" for run in runs)]:
            parts = path.rstrip("/").split("/")
            for depth in range(1, len(parts)):
                folder, name = "/".join(parts[:depth]), parts[depth]
                is_folder = depth + 1 < len(parts) or name.endswith(".zarr") or path.endswith("/")
                self._folders.setdefault(folder, {})[name] = is_folder

    def metered(self, meter: Meter) -> CroissantTree:
        """The same tree; what is read through the result is counted by `meter`."""
        other = object.__new__(CroissantTree)
        other.__dict__ = {**self.__dict__, "_meter": meter, "_stores": {}}
        return other

    def find(self, path: str) -> tuple[Files, str] | None:
        """The store and the path there of what is listed under copick's path; None for what is not listed."""
        url = self._places.get(path.strip("/"))
        if url is None:
            return None
        root, inside = (self._base_url, url) if not _is_absolute(url) else _split(url)
        if root not in self._stores:
            files = Files(root, self._options)
            self._stores[root] = files if self._meter is None else files.metered(self._meter)
        return self._stores[root], inside.strip("/")

    def exists(self, path: str) -> bool:
        return path.strip("/") in self._places or path.strip("/") in self._folders

    def children(self, path: str) -> dict[str, bool]:
        """Names below a folder, sorted; True for folders and volumes."""
        return dict(sorted(self._folders.get(path.strip("/"), {}).items()))

    def read(self, path: str) -> bytes:
        """A listed file. `FileNotFoundError` where it is not listed, or is not where the manifest says."""
        place = self.find(path)
        if place is None:
            raise FileNotFoundError(path)
        return place[0].read(place[1])


def open_croissant(config: str, settings: Mapping[str, Any]) -> tuple[CroissantTree, list[dict[str, Any]]]:
    """The tree that an `mlcroissant` config stands for, and the objects it may hold.

    Raises ProjectError for a config without an overlay, and for a manifest that is absent, torn or leads out of its
    root; StorageError and TransientError as `Files.read`.
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
    said = str(settings.get("croissant_base_url") or document.get("copick:baseUrl") or files.url.rpartition("/")[0])
    base, remote = _plain(said), not files.local
    if remote and not _is_remote(base):
        raise ProjectError(
            f"{url}: its data are said to lie on this machine ({base})", "give croissant_base_url in the config"
        )
    tables = _Tables(files, document, url)
    places = {path: _checked(place, url, remote) for path, place in _listed(tables)}
    runs = [row["name"] for row in tables.rows("runs") if is_safe_name(row.get("name"))]
    return CroissantTree(base, settings.get("static_fs_args") or {}, places, runs), list(
        settings.get("pickable_objects") or block.get("pickable_objects") or []
    )


class _Tables:
    """The CSV tables of a manifest: beside it, or where its distribution says."""

    def __init__(self, files: Files, document: Mapping[str, Any], url: str) -> None:
        self.files, self.url = files, url
        entries = document.get("distribution") or []
        self.known = {str(entry.get("@id")): str(entry.get("contentUrl") or "") for entry in entries}

    def rows(self, table: str) -> list[dict[str, str]]:
        """A table the manifest does not have is empty; ProjectError for one that it names and that is not there."""
        content = self.known.get(f"{table.replace('_', '-')}-csv")
        if content is None:
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


def _listed(tables: _Tables) -> Iterator[tuple[str, str]]:
    """Copick's path and the URL of all that the tables list and that has a safe name."""
    makers: dict[str, Callable[[Mapping[str, str]], str | None]] = {
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
    for table, path_of in makers.items():
        for row in tables.rows(table):
            try:
                path = path_of(row)
            except (BadNameError, VoxelSpacingError, ValueError, KeyError, TypeError):
                continue
            if path is not None and row.get("url"):
                yield path, row["url"]


def _segmentation(row: Mapping[str, str], *, instance: bool) -> str:
    spacing = float(row["voxel_size"])
    return SegmentationRef(row["run"], row["name"], row["user_id"], row["session_id"], spacing, instance).path


def _object(row: Mapping[str, str]) -> ObjectRef:
    return ObjectRef(row["run"], row["object_name"], row["user_id"], row["session_id"])


def _checked(place: str, url: str, remote: bool) -> str:
    """A row's URL; a manifest from elsewhere must not lead to files of this machine, nor any out of its root."""
    plain = _plain(place)
    if ".." in plain.split("/") or (remote and _is_absolute(plain) and not _is_remote(plain)):
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
    """An absolute URL as a root (scheme and host, or bucket) and the rest."""
    if not _is_remote(url):
        return "/", url
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", path

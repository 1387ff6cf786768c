"""Model files from elsewhere, downloaded once, checked and cached; and registries, which name such files.

The cache is addressed by content, so that several processes may fill it at once and a name never hides another file:

    CACHE/<sha256>/<name>       a file; its name is the last part of the URL it came from
    CACHE/urls/<sha256 of URL>  "<sha256>/<name>": what a URL without a pinned sha256 gave at the first download

A registry is YAML or JSON, at a path or a URL:

    models:
      membrain-seg-v10:
        url: https://files.example.org/MemBrain_seg_v10_alpha.ckpt
        sha256: 64 hex digits, as `sha256sum` prints them
        description: what it is
        license: under which it may be used
        voxel_spacing_angstrom: 10.0   # these two are used if the file itself does not say
        window: 160
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import ModelError, StorageError, TransientError, storage_error
from membrain_cloud.store.objects.object_store import Files

CACHE_VARIABLE = "MEMBRAIN_CLOUD_CACHE"
"""Environment variable that names the folder of downloads."""
REGISTRY_VARIABLE = "MEMBRAIN_CLOUD_MODELS"
"""Environment variable that names the registry, a path or a URL."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]

_PIN = re.compile(r"(?P<location>.+)#sha256=(?P<sha256>.*)")
# HTTP status codes that a retry does not change; 408, 425 and 429 mean "not now".
_LASTING_HTTP = frozenset(range(400, 500)) - {408, 425, 429}
# Far longer than a server may be silent (see `_timeouts`).
_TORN_AFTER_SECONDS = 3600.0


class RegistryEntry(BaseModel):
    """A model of a registry.

    Attributes
    ----------
    url : str
        URL or path of the file; a relative path is below the registry's own folder.
    sha256 : str
        Hash of the file, 64 hexadecimal digits.
    description : str
        What the model is.
    license : str
        License of the file.
    voxel_spacing_angstrom : float or None
        Voxel spacing of its training, in Å, if the file itself does not say.
    window : int or None
        Edge of its sliding window in voxels, if the file itself does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str = Field(min_length=1)
    sha256: Sha256
    description: str = ""
    license: str = ""
    voxel_spacing_angstrom: float | None = Field(None, gt=0)
    window: int | None = Field(None, ge=16)


class Registry(BaseModel):
    """The content of a registry file: `models` by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[ModelName, RegistryEntry]


def cache_folder() -> Path:
    """Return the folder of downloads: $MEMBRAIN_CLOUD_CACHE, or `~/.cache/membrain_cloud/models`."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "membrain_cloud" / "models"


def registry_location() -> str | None:
    """Return path or URL of the registry, or None if none is named and the default one is absent."""
    location = os.environ.get(REGISTRY_VARIABLE)
    if location:
        return location
    default = Path.home() / ".config" / "membrain_cloud" / "models.yaml"
    return str(default) if default.is_file() else None


def read_registry(location: str | None) -> dict[str, RegistryEntry]:
    """Return the models of a registry by name, with absolute URLs.

    Parameters
    ----------
    location : str or None
        Path or URL of the registry; None: no models.

    Raises
    ------
    ModelError
        If there is no registry there.
    """
    if location is None:
        return {}
    try:
        text = _read(location).decode("utf-8")
        entries = Registry.model_validate(yaml.safe_load(text)).models
    except (FileNotFoundError, IsADirectoryError):
        cure = f"correct the environment variable {REGISTRY_VARIABLE}"
        raise ModelError(f"model registry {location}: there is no such file", cure) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
        cause = first["msg"][:1].lower() + first["msg"][1:]
        raise ModelError(f"model registry {location}: {where}: {cause}", "correct it: url and sha256 a name") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise ModelError(f"model registry {location}: not YAML or JSON ({cause})", "correct it") from None
    return {
        name: entry.model_copy(update={"url": _absolute_url(location, entry.url)}) for name, entry in entries.items()
    }


def split_pin(source: str) -> tuple[str, str | None]:
    """Split `location#sha256=<hex>` into location and hash.

    Parameters
    ----------
    source : str
        Path or URL, with or without a pinned hash.

    Returns
    -------
    location : str
        Path or URL.
    sha256 : str or None
        64 hexadecimal digits in lower case, or None without a pin.

    Raises
    ------
    ModelError
        If the hash is malformed.
    """
    match = _PIN.fullmatch(source)
    if match is None:
        return source, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", match["sha256"]):
        raise ModelError(f"model {source}: its sha256 is not 64 hex digits", "give what `sha256sum FILE` prints")
    return match["location"], match["sha256"].lower()


def is_url(location: str) -> bool:
    """Return whether a location is a URL, rather than a path.

    Parameters
    ----------
    location : str
        A path, or a URL.
    """
    return "://" in location


def fetch(url: str, sha256: str | None) -> Path:
    """Return a local file with the content of a URL, from the cache or downloaded.

    Parameters
    ----------
    url : str
        URL or path; a path or file:// URL is returned as it is.
    sha256 : str or None
        Hash that a download must have, and under which it is looked up in the cache; None: not checked.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelError
        If the file is absent, the server refuses it, or its hash differs; the download is removed then.
    StorageError
        If the cache cannot be written, or there is no permission.
    TransientError
        For a fault that may pass.
    """
    if not is_url(url) or url.startswith(("file://", "local://")):
        path = Path(Files(url).root)
        if not path.is_file():
            raise ModelError(f"model {url}: there is no such file", "correct the path")
        return path
    cached = _cached(url, sha256)
    return cached if cached is not None else _download(url, sha256)


def place_in(folder: str, name: str) -> Path:
    """Return the path of a model in a folder.

    Parameters
    ----------
    folder : str
        The folder.
    name : str
        Name of the model's file.

    Raises
    ------
    ModelError
        If the name is not a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ModelError(f"{name!r} is not a name for a model's file", "use letters, digits, dots, dashes, underscores")
    return Path(folder) / name


def copy_to(source: Path, target: Path) -> None:
    """Copy a file, so that the target is whole or absent. Its folder is made if it is absent.

    Parameters
    ----------
    source : Path
        The file to copy.
    target : Path
        The copy.

    Raises
    ------
    StorageError, TransientError
        If the copy cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(target, lambda temporary: shutil.copyfile(source, temporary), flush=False)
    except OSError as error:
        raise storage_error(error, str(target)) from error


def drop(path: Path) -> bool:
    """Remove a file of the cache, so that it is fetched again; return False for a file outside the cache.

    Parameters
    ----------
    path : Path
        The file.
    """
    if not path.resolve().is_relative_to(cache_folder().resolve()):
        return False
    path.unlink(missing_ok=True)
    return True


def _cached(url: str, sha256: str | None) -> Path | None:
    folder = cache_folder()
    try:
        place = f"{sha256}/{_file_name(url)}" if sha256 else _pointer(url).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return folder / place if (folder / place).is_file() else None


def _pointer(url: str) -> Path:
    return cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()


def _file_name(url: str) -> str:
    """Return the last part of a URL's path, with unsafe characters replaced."""
    last = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or urlsplit(url).netloc
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "model"


def _download(url: str, expected: str | None) -> Path:
    """Download a file into the cache, and check its hash."""
    folder = cache_folder()
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_torn(folder)
        _copy(url, temporary)
        with temporary.open("rb+") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            os.fsync(opened.fileno())
        if expected is not None and sha256 != expected:
            raise ModelError(
                f"model {url}: its sha256 is {sha256}, not {expected}; the download was removed",
                "ask its publisher for the sha256, then correct it",
            )
        target = folder / sha256 / _file_name(url)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        if expected is None:
            pointer = _pointer(url)
            pointer.parent.mkdir(exist_ok=True)
            text = f"{sha256}/{target.name}\n"
            replace_atomically(pointer, lambda path: path.write_text(text, encoding="utf-8"), flush=False)
    except OSError as error:
        raise storage_error(error, f"model cache {folder}") from error
    finally:
        _remove(temporary)
    return target


def _copy(url: str, target: Path) -> None:
    """Download a file; translate the errors into ModelError if the URL is wrong."""
    try:
        Files(url, _timeouts(url)).copy_out("", str(target))
    except FileNotFoundError:
        raise ModelError(f"model {url}: nothing is there", "correct the URL") from None
    except (TransientError, StorageError) as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error.__cause__ from None  # the local disk's fault, not the server's
        status = getattr(error.__cause__, "status", None)
        if status in _LASTING_HTTP:
            cure = "correct the URL, or download the file by hand and give its path"
            raise ModelError(f"model {url}: the server refuses it (HTTP {status})", cure) from error
        raise
    except (ValueError, ImportError, NotImplementedError) as error:
        raise ModelError(
            f"model {url}: cannot be fetched ({error})", "give an https:// or s3:// URL, or a local path"
        ) from None
    if not target.is_file():
        raise ModelError(f"model {url}: not a file", "give the URL of one file")


def _timeouts(url: str) -> dict[str, Any]:
    """Return options that give each part of a download one minute; aiohttp's default is five for the whole."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _read(location: str) -> bytes:
    if not is_url(location):
        return Path(location).expanduser().read_bytes()
    try:
        return Files(location).read("")
    except (ValueError, ImportError) as error:
        raise ModelError(f"model registry {location}: cannot be read ({error})", "give a path or a URL") from None


def _absolute_url(location: str, url: str) -> str:
    """Return a URL of a registry, relative to the registry's folder."""
    if is_url(url) or Path(url).is_absolute():
        return url
    if is_url(location):
        return f"{location.rpartition('/')[0]}/{url}"
    return str(Path(location).expanduser().absolute().parent / url)


def _remove_torn(folder: Path) -> None:
    """Remove the downloads of killed processes, which have not changed for an hour."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _TORN_AFTER_SECONDS:
                _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():  # fsspec copies what turns out to be a folder as one
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

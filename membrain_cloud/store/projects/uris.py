"""Copick URIs on command lines, parsed by copick itself: tomograms, sources and targets."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from membrain_cloud.errors import ProjectError

_PATTERN = re.compile(r"[*?\[\]]")


class TomogramUri(NamedTuple):
    """The parts of `type@spacing`; None for a part that is left open.

    Attributes
    ----------
    tomogram_type : str or None
        Copick's type.
    voxel_spacing_angstrom : str or None
        Voxel spacing in Å, as written.
    """

    tomogram_type: str | None
    voxel_spacing_angstrom: str | None


class TargetUri(NamedTuple):
    """The parts of `name:user/session`.

    Attributes
    ----------
    name, user, session : str
        Object, user and session.
    """

    name: str
    user: str
    session: str


def parse_tomogram_uri(uri: str) -> TomogramUri:
    """Return the parts of a URI of tomograms.

    Parameters
    ----------
    uri : str
        `type@spacing`, or one of the two, such as `wbp` or `*@10.0`.

    Raises
    ------
    ProjectError
        For patterns that leave more open than a whole part.
    """
    parts = _parsed(uri, "tomogram")
    named = [None if part in ("", "*") else str(part) for part in (parts["tomo_type"], parts["voxel_spacing"])]
    if parts["pattern_type"] != "glob" or any(part and _PATTERN.search(part) for part in named):
        raise ProjectError(f"{uri!r} is a pattern", "name one type of tomogram: type@spacing")
    return TomogramUri(*named)


def parse_target_uri(uri: str) -> TargetUri:
    """Return the parts of a URI that results are written to; a spacing and a query are left to the results.

    Parameters
    ----------
    uri : str
        `name:user/session[@spacing][?query]`.

    Raises
    ------
    ProjectError
        If a part is absent or a pattern.
    """
    parts = _parsed(uri, "segmentation")
    target = TargetUri(parts["name"], parts["user_id"], parts["session_id"])
    if parts["pattern_type"] != "glob" or not all(target) or any(_PATTERN.search(part) for part in target):
        raise ProjectError(f"{uri!r} does not name one target", "write name:user/session")
    return target


def names_instances(uri: str) -> bool:
    """Return whether a URI of a segmentation has `?instance=true`."""
    return bool(_parsed(uri, "segmentation")["instance"])


def _parsed(uri: str, kind: str) -> dict[str, Any]:
    from copick.util.uri import parse_copick_uri

    try:
        return dict(parse_copick_uri(uri, kind))
    except ValueError as error:
        raise ProjectError(f"{uri!r} is not a URI of copick ({error})", "write name:user/session@spacing") from error

"""Blosc codecs that check the length of a chunk before they decode it.

Blosc trusts the length in its header and reads past the end of a shorter buffer: a torn chunk can kill the process.
`with_checked_codecs` puts these codecs into an array's metadata before zarr parses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numcodecs
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

_HEADER_BYTES = 16


class TruncatedError(ValueError):
    """A compressed chunk is shorter or longer than its header says."""


def check_blosc_length(content: Any) -> None:
    """Raise TruncatedError if the length of a Blosc buffer is not the one in its header.

    Parameters
    ----------
    content : bytes-like
        A compressed chunk.
    """
    view = memoryview(content).cast("B")
    length = int.from_bytes(view[12:16], "little") if len(view) >= _HEADER_BYTES else _HEADER_BYTES
    if length != len(view):
        raise TruncatedError(f"{len(view)} bytes, its header says {length}")


class CheckedBlosc(numcodecs.Blosc):  # type: ignore[misc]  # numcodecs has no types
    """The Blosc codec of Zarr version 2, with the length checked."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the decoded chunk; raise TruncatedError if its length is wrong."""
        check_blosc_length(buf)
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):  # type: ignore[misc]  # zarr's types are not followed
    """The Blosc codec of Zarr version 3, with the length checked."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        check_blosc_length(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)


def with_checked_codecs(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return an array's metadata with every Blosc codec replaced by one that checks the length.

    Parameters
    ----------
    metadata : dict
        The content of `.zarray` or of an array's `zarr.json`.

    Returns
    -------
    dict
        A copy, with instances of codecs in place of their names.
    """
    if metadata.get("zarr_format") == 3:
        return metadata | {"codecs": _checked(metadata.get("codecs"))}
    compressor = metadata.get("compressor")
    if isinstance(compressor, dict) and compressor.get("id") == "blosc":
        return metadata | {"compressor": CheckedBlosc.from_config({k: v for k, v in compressor.items() if k != "id"})}
    return metadata


def _checked(codecs: Any) -> Any:
    """Return a chain of codecs of Zarr version 3, those inside shards included."""
    if not isinstance(codecs, list | tuple):
        return codecs
    chain: list[Any] = []
    for codec in codecs:
        name = codec.get("name") if isinstance(codec, dict) else None
        configuration = codec.get("configuration") if name else None
        if name == "blosc":
            chain.append(CheckedBloscCodec.from_dict(codec))
        elif name == "sharding_indexed" and isinstance(configuration, dict):
            inner = configuration | {"codecs": _checked(configuration.get("codecs"))}
            chain.append(codec | {"configuration": inner})
        else:
            chain.append(codec)
    return chain

"""The metadata of an array, parsed and written by zarr: Zarr version 2 (`.zarray`) and version 3 (`zarr.json`)."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs.errors
import numpy as np
from zarr.codecs.sharding import ShardingCodec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.errors import UnknownCodecError, ZarrUserWarning

from membrain_cloud.errors import ChunkError, TomogramError
from membrain_cloud.store.volumes.checked_codecs import with_checked_codecs

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

COPY_AGAIN = "copy the volume again from its source: a block of zeros in its place would look like data"
"""Next step of an error of a chunk."""
DIMENSIONS = ("z", "y", "x")
"""Names of the dimensions of the arrays that are written."""
METADATA_NAMES = {2: ".zarray", 3: "zarr.json"}
"""Name of an array's metadata, by Zarr version."""

# Metadata that claim more are damaged: planning lists blocks and chunks in memory.
_MOST_VOXELS, _MOST_CHUNKS = 10**13, 10**7
_BLOSC = {"cname": "lz4", "clevel": 5, "blocksize": 0}
_UNKNOWN_CODEC = (numcodecs.errors.UnknownCodecError, UnknownCodecError)


# Volumes of others are read whatever their codecs; copick 2 writes `numcodecs.shuffle`.
warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3", ZarrUserWarning)


@dataclass(frozen=True)
class ArrayFormat:
    """Shape, chunks and data type of an array, and its metadata as zarr holds them.

    Attributes
    ----------
    shape : tuple of 3 ints
        Shape of the array, zyx.
    chunk : tuple of 3 ints
        Shape of the chunks, the unit of reading, zyx.
    shard : tuple of 3 ints
        Shape of a stored object, the unit of writing: a shard, or a chunk where there are no shards.
    dtype : numpy.dtype
        Data type as stored.
    lead : int
        Number of axes of length 1 before zyx (time, channel), which are skipped.
    metadata : ArrayV2Metadata or ArrayV3Metadata
        The metadata of zarr.
    """

    shape: Zyx
    chunk: Zyx
    shard: Zyx
    dtype: np.dtype[Any]
    lead: int
    metadata: Any = field(repr=False)

    @classmethod
    def parse(cls, text: bytes, what: str) -> ArrayFormat:
        """Parse the content of `.zarray`, or of an array's `zarr.json`.

        Parameters
        ----------
        text : bytes
            JSON.
        what : str
            The array, for error messages.

        Raises
        ------
        ChunkError
            If the metadata are torn.
        TomogramError
            If the array is not a volume of numbers, is larger than any tomogram, or a codec is not installed.
        """
        try:
            metadata = _parse(json.loads(text))
        except _UNKNOWN_CODEC as error:
            raise TomogramError(
                f"{what}: a codec of its chunks is not installed ({error})",
                "install the package of this codec, or write the volume anew with Blosc or zstd",
            ) from error
        except Exception as error:  # zarr raises many kinds, ZeroDivisionError and OverflowError among them
            raise ChunkError(f"{what}: the array's metadata cannot be read ({error!r})", COPY_AGAIN) from error
        return cls._of(metadata, what)

    @classmethod
    def _of(cls, metadata: Any, what: str) -> ArrayFormat:
        shape, dtype = tuple(metadata.shape), metadata.dtype.to_native_dtype()
        lead = len(shape) - 3
        if lead < 0 or any(n != 1 for n in shape[:lead]):
            raise TomogramError(f"{what}: shape {shape} is not a volume", "give an array with the axes z, y, x")
        if dtype.kind not in "biuf":
            raise TomogramError(f"{what}: data type {dtype} cannot be read", "convert it to float32 or an integer type")
        if any(n <= 0 for n in shape):
            raise TomogramError(f"{what}: the volume is empty (shape {shape})", "reconstruct or convert it again")
        chunk, shard = metadata.chunks[lead:], (metadata.shards or metadata.chunks)[lead:]
        if any(n <= 0 for n in (*chunk, *shard)):
            raise TomogramError(f"{what}: chunks of shape {tuple(chunk)} hold no voxel", "convert the volume again")
        chunks = math.prod(-(-n // c) for n, c in zip(shape[lead:], chunk, strict=True))
        if max(math.prod(shape), math.prod(shard)) > _MOST_VOXELS or chunks > _MOST_CHUNKS:
            raise TomogramError(
                f"{what}: shape {shape[lead:]} with chunks of {tuple(chunk)} is no tomogram's ({chunks} chunks)",
                f"correct the metadata, or convert the volume again: at most {_MOST_VOXELS:.0e} voxels and "
                f"{_MOST_CHUNKS:.0e} chunks are read",
            )
        return cls(shape[lead:], tuple(chunk), tuple(shard), dtype, lead, metadata)

    @classmethod
    def plain(
        cls, shape: Zyx, chunk: Zyx, dtype: np.dtype[Any], *, zarr_format: int = 2, shard: Zyx | None = None
    ) -> ArrayFormat:
        """Return a format that this package writes: Blosc-lz4, separator "/", little endian.

        Parameters
        ----------
        shape, chunk : tuple of 3 ints
            Shape of the array and of its chunks, zyx.
        dtype : numpy.dtype
            Data type.
        zarr_format : {2, 3}
            Version of Zarr. Default: 2.
        shard : tuple of 3 ints, optional
            Shape of the shards of version 3, multiples of `chunk`. Default: no shards.
        """
        dtype = np.dtype(dtype).newbyteorder("<")
        common: dict[str, Any] = {"shape": shape, "zarr_format": zarr_format}
        if zarr_format == 2:
            content = common | {
                "chunks": chunk,
                "dtype": dtype.str,
                "compressor": _BLOSC | {"id": "blosc", "shuffle": 1},
                "filters": None,
                "order": "C",
                # xarray takes 0 for "missing" and would turn labels into floats.
                "fill_value": None,
                "dimension_separator": "/",
                "attributes": {"_ARRAY_DIMENSIONS": list(DIMENSIONS)},
            }
        else:
            content = common | {
                "node_type": "array",
                "data_type": dtype.newbyteorder("=").name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard or chunk}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0,
                "codecs": _codecs(chunk, dtype, sharded=shard is not None),
                "attributes": {},
                "dimension_names": DIMENSIONS,
            }
        return cls._of(_parse(content), "array")

    @property
    def zarr_format(self) -> int:
        """Version of Zarr, 2 or 3."""
        return int(self.metadata.zarr_format)

    @property
    def fill_value(self) -> Any:
        """The value of absent chunks, where they may be absent."""
        return 0 if self.metadata.fill_value is None else self.metadata.fill_value

    @property
    def is_sharded(self) -> bool:
        """Whether chunks lie in shards."""
        return self.metadata.shards is not None

    @property
    def has_index_at_start(self) -> bool:
        """Whether the index of a shard lies before its chunks."""
        return any(
            isinstance(codec, ShardingCodec) and codec.to_dict()["configuration"]["index_location"] == "start"
            for codec in getattr(self.metadata, "codecs", ())
        )

    def documents(self) -> dict[str, bytes]:
        """Return the content of the metadata by name, the one that makes the array visible last."""
        from zarr.core.buffer import default_buffer_prototype

        content = {
            key: value.to_bytes() for key, value in self.metadata.to_buffer_dict(default_buffer_prototype()).items()
        }
        visible = METADATA_NAMES[self.zarr_format]
        return {key: content[key] for key in sorted(content, key=lambda name: name == visible)}

    def object_name(self, index: Zyx) -> str:
        """Return the name of a stored object (a shard, or a chunk) relative to the array.

        Parameters
        ----------
        index : tuple of 3 ints
            Index of the object along z, y and x.
        """
        return str(self.metadata.encode_chunk_key((0,) * self.lead + tuple(index)))


def _parse(content: dict[str, Any]) -> Any:
    checked = with_checked_codecs(content)
    if content["zarr_format"] == 3:
        return ArrayV3Metadata.from_dict(checked)
    return ArrayV2Metadata.from_dict(checked | {"filters": content.get("filters") or None})


def _codecs(chunk: Zyx, dtype: np.dtype[Any], *, sharded: bool) -> list[dict[str, Any]]:
    """Return the codecs of Zarr version 3: Blosc-lz4 with a checksum, in shards where they are asked for."""
    endian = {} if dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
    blosc = _BLOSC | {"shuffle": "shuffle", "typesize": dtype.itemsize}
    inner: list[dict[str, Any]] = [
        {"name": "bytes"} | endian,
        {"name": "blosc", "configuration": blosc},
        {"name": "crc32c"},
    ]
    if not sharded:
        return inner
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {"chunk_shape": chunk, "codecs": inner, "index_codecs": index, "index_location": "end"}
    return [{"name": "sharding_indexed", "configuration": configuration}]

"""How the arrays of a dataset are compressed; every chunk ends with its CRC-32C."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec

from spacescale.dataset.schema import Codec

GENOME_CHUNK_BP = 262_144
GENOME_SHARD_BP = 256 * GENOME_CHUNK_BP


@contextmanager
def codec_warning_ignored() -> Iterator[None]:
    """Silence zarr's note that PCodec is no part of its specification: README.md says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
        yield


def targets_codecs(codec: Codec) -> dict:
    """Return the codec arguments of zarr's create_array for float16 targets."""
    if codec == "zstd":
        return {"compressors": [ZstdCodec(level=1), Crc32cCodec()]}
    if codec == "none":
        return {"compressors": [Crc32cCodec()]}
    with codec_warning_ignored():
        return {
            "filters": None,
            "serializer": PCodec(level=8),
            "compressors": [Crc32cCodec()],
        }


def genome_codecs() -> dict:
    """Return the codec arguments of zarr's create_array for uint8 base codes."""
    return {"compressors": [ZstdCodec(level=10), Crc32cCodec()]}


def first_error(error: BaseException) -> BaseException:
    """Return what went wrong in zarr, out of the ExceptionGroup if it came in one.

    zarr 3.4 reads the chunks of a shard in a group of tasks, and the text of such a group names
    nothing but their number; zarr 3.1 raises the error as it is.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

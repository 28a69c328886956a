"""Chunk ids and compression, outside Borg's own code because that is not thread-safe.

Borg's lz4 and zstd classes share one buffer per process and drop the interpreter lock while they
use it, so two threads (even with two keys) damage each other's data. zstd goes through the
`zstandard` package instead, whose frames Borg reads; everything else through Borg, one at a time.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from functools import lru_cache
from typing import Any

import zstandard
from borg.compress import CompressionSpec, Compressor
from borg.constants import MAX_DATA_SIZE
from borg.crypto.key import ID_HMAC_SHA_256, ID_BLAKE2b_256, PlaintextKey
from borg.helpers import IntegrityError

from vmconsole.errors import ConfigError, RepositoryError

Buffer = bytes | bytearray | memoryview

BORG_BUFFER = threading.RLock()
"""Held around everything that may use Borg's process-wide compression buffer."""
ZSTD = b"\x03\x00"
STORED = b"\x00\x00"
_PAGE = 4096


class Frame(bytes):
    """A chunk that is compressed already."""

    __slots__ = ()


def is_zero(data: Buffer) -> bool:
    """Whether all bytes are zero; cheap when the first page says no."""
    return bytes(data[:_PAGE]) == zeros(min(_PAGE, len(data))) and bytes(data) == zeros(len(data))


@lru_cache(maxsize=8)
def zeros(length: int) -> bytes:
    return bytes(length)


class Codec:
    """Ids and compressed frames for one key. Thread-safe.

    Becomes the key's compressor, so that Borg's own calls come through here too.
    compression: as `borg create --compression`. Raises ConfigError when Borg does not know it.
    """

    def __init__(self, key: Any, compression: str) -> None:
        self._key = key
        self._local = threading.local()
        self._zeros: dict[int, bytes] = {}
        self._stored = compression == "none"
        self._level = _zstd_level(compression)
        if not self._stored and self._level is None:
            self._borg = _borg_compressor(compression)
        self._seed = _seed(key)
        self._check()
        key.compressor = self
        key.decompress = self.decompress

    def _check(self) -> None:
        probe = b"chunk ids are a contract" * 100
        if self.id_of(probe) != self._key.id_hash(probe):
            raise RepositoryError(
                "The engine and this version of Borg disagree on chunk ids.",
                hint="Install a version of borgbackup that vmconsole was tested with.",
            )

    def id_of(self, data: Buffer) -> bytes:
        """The chunk's id, 32 bytes."""
        digest = self._seed.copy()
        digest.update(data)
        return bytes(digest.digest())

    def zero_id(self, length: int) -> bytes:
        """The id of length zero bytes."""
        known = self._zeros.get(length)
        if known is None:
            known = self._zeros[length] = self.id_of(zeros(length))
        return known

    def compress(self, data: Buffer) -> bytes:
        """The frame that goes into the repository before encryption; a Frame is returned as it is."""
        if isinstance(data, Frame):
            return data
        if self._stored:
            return STORED + bytes(data)
        if self._level is not None:
            return ZSTD + self._compressor(self._level).compress(data)
        with BORG_BUFFER:
            return bytes(self._borg.compress(bytes(data)))

    def frame(self, data: Buffer) -> Frame:
        return Frame(self.compress(data))

    def decompress(self, payload: Buffer) -> bytes:
        """What a frame holds. Raises Borg's IntegrityError when it is none, or would be too large."""
        kind = bytes(payload[:2])
        if kind == ZSTD:
            return self._unzstd(memoryview(payload)[2:])
        if kind == STORED:
            return bytes(payload[2:])
        if len(kind) < 2:
            raise IntegrityError("an empty chunk")
        try:
            with BORG_BUFFER:
                return bytes(Compressor("none").decompress(bytes(payload)))
        except ValueError as error:
            raise IntegrityError(f"a chunk cannot be decompressed: {error}") from error

    def _unzstd(self, frame: memoryview) -> bytes:
        try:
            size = zstandard.frame_content_size(frame)
            if not 0 <= size <= MAX_DATA_SIZE:
                raise IntegrityError(f"a compressed chunk claims to hold {size} bytes")
            return self._decompressor().decompress(frame)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"a chunk cannot be decompressed: {error}") from error

    def verified(self, id_: bytes, payload: Buffer) -> bytes:
        """What a frame holds, checked against the chunk's id."""
        data = self.decompress(payload)
        if not hmac.compare_digest(self.id_of(data), id_):
            raise IntegrityError(f"chunk {id_.hex()} does not hold what its id says")
        return data

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        made: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if made is None:
            made = self._local.compressor = zstandard.ZstdCompressor(level=level)
        return made

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        made: zstandard.ZstdDecompressor | None = getattr(self._local, "decompressor", None)
        if made is None:
            made = self._local.decompressor = zstandard.ZstdDecompressor()
        return made


def _seed(key: Any) -> Any:
    """The part of the id hash that is the same for every chunk."""
    if isinstance(key, ID_BLAKE2b_256):
        return hashlib.blake2b(key.id_key, digest_size=32)
    if isinstance(key, PlaintextKey):
        return hashlib.sha256()
    if isinstance(key, ID_HMAC_SHA_256):
        return hmac.new(key.id_key, digestmod="sha256")
    raise RepositoryError(f"Encryption mode {key.NAME} is not known to this vmconsole.")


def _zstd_level(compression: str) -> int | None:
    """The level of `zstd` and `zstd,N`; None for anything else."""
    name, _, level = compression.partition(",")
    if name != "zstd":
        return None
    if not level:
        return 3
    if not level.isdecimal() or not 1 <= int(level) <= 22:
        raise ConfigError(f"Compression {compression!r} is not known.", hint="Use zstd,1 up to zstd,22.")
    return int(level)


def _borg_compressor(compression: str) -> Any:
    try:
        return CompressionSpec(compression).compressor
    except Exception as error:
        raise ConfigError(
            f"Compression {compression!r} is not known to Borg.",
            hint="Use none, lz4, zstd,3, or anything `borg help compression` lists.",
        ) from error

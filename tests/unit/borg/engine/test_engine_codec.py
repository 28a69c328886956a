from __future__ import annotations

import hashlib
import hmac
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from borg.compress import Compressor
from borg.crypto.key import Blake2RepoKey, PlaintextKey, RepoKey
from borg.helpers import IntegrityError
from borg_lab import noise

from vmconsole.borg.engine import quiet
from vmconsole.borg.engine.codec import Codec, is_zero
from vmconsole.borg.engine.sealing import Sealer
from vmconsole.errors import ConfigError

quiet.prepare()


class Nonces:
    """Stands in for the repository's part of Borg's nonce manager: grants what is asked for."""

    def ensure_reservation(self, nonce: int, blocks: int) -> int:
        return nonce


def key_of(kind: Any) -> Any:
    key = kind(SimpleNamespace(id=bytes(32), id_str="00" * 32))
    if kind is not PlaintextKey:
        key.init_from_random_data()
        key.cipher = key.CIPHERSUITE(
            mac_key=key.enc_hmac_key, enc_key=key.enc_key, header_len=1, aad_offset=1
        )
        key.cipher.set_iv(0)
        key.nonce_manager = Nonces()
    return key


KINDS = pytest.mark.parametrize("kind", [PlaintextKey, RepoKey, Blake2RepoKey])


@KINDS
def test_ids_are_borgs(kind: Any) -> None:
    key = key_of(kind)
    codec = Codec(key, "zstd,3")
    for data in (b"", b"x", noise(100_000), bytes(70_000)):
        assert codec.id_of(data) == key.id_hash(data)
        assert codec.id_of(memoryview(data)) == key.id_hash(data)
    assert codec.zero_id(5000) == key.id_hash(bytes(5000))


def test_plain_ids_are_sha256() -> None:
    assert Codec(key_of(PlaintextKey), "none").id_of(b"abc") == hashlib.sha256(b"abc").digest()
    key = key_of(RepoKey)
    assert Codec(key, "none").id_of(b"abc") == hmac.digest(key.id_key, b"abc", "sha256")


@pytest.mark.parametrize(
    "compression", ["none", "lz4", "zstd", "zstd,1", "zstd,22", "zlib,9", "lzma,1", "auto,lz4"]
)
def test_borg_reads_our_frames_and_we_read_borgs(compression: str) -> None:
    codec = Codec(key_of(PlaintextKey), compression)
    for data in (b"", b"x", noise(70_000), b"again " * 20_000):
        assert Compressor("none").decompress(codec.compress(data)) == data
        assert codec.decompress(codec.compress(data)) == data
        assert codec.compress(codec.frame(data)) == codec.frame(data)
    assert codec.decompress(Compressor("zstd", level=3).compress(b"from borg")) == b"from borg"
    assert codec.decompress(Compressor("lz4").compress(b"from borg")) == b"from borg"


@pytest.mark.parametrize("compression", ["", "zstd,0", "zstd,23", "zstd,x", "brotli", "zlib,99"])
def test_unknown_compressions(compression: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        Codec(key_of(PlaintextKey), compression)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x03",
        b"\x03\x00",
        b"\x03\x00garbage that is no frame",
        b"\xff\xffnot a compressor",
        b"\x01\x00\xff",
        b"\x03\x00" + zstandard.ZstdCompressor(write_content_size=False).compress(b"no size told" * 50),
        # A frame header that claims 2**62 bytes.
        b"\x03\x00" + b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62),
        b"\x03\x00" + zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024)),
    ],
)
def test_hostile_frames(frame: bytes) -> None:
    with pytest.raises(IntegrityError):
        Codec(key_of(PlaintextKey), "zstd,3").decompress(frame)


def test_what_is_zero() -> None:
    for length in (0, 1, 4095, 4096, 4097, 100_000):
        assert is_zero(bytes(length))
        assert is_zero(memoryview(bytearray(length)))
        for place in {0, length // 2, length - 1} if length else ():
            data = bytearray(length)
            data[place] = 1
            assert not is_zero(data)


@KINDS
def test_sealed_in_many_threads_borg_opens_each(kind: Any) -> None:
    key = key_of(kind)
    codec = Codec(key, "zstd,3")
    decrypt = key.decrypt
    sealer = Sealer(key, codec)
    lock = threading.Lock()
    nonces: list[int] = []

    def seal(number: int) -> tuple[bytes, bytes]:
        data = noise(3000, number) * 20
        frame = codec.compress(data)
        with lock:
            nonce = sealer.reserve(len(frame))
            nonces.append(nonce)
        return data, sealer.seal(frame, nonce)

    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(seal, range(200)))
        opened = list(
            pool.map(lambda pair: codec.verified(codec.id_of(pair[0]), sealer.unseal(b"", pair[1])), sealed)
        )
    for (data, stored), ours in zip(sealed, opened, strict=True):
        assert ours == data
        assert decrypt(key.id_hash(data), stored) == key.decrypt(key.id_hash(data), stored) == data
    if kind is not PlaintextKey:
        nonces += [key.cipher.extract_iv(key.encrypt(b"from Borg itself")) for _ in range(3)]
        assert len(set(nonces)) == len(nonces)
        assert min(nonces[-3:]) > max(nonces[:-3]), "however much was decrypted in between"


@KINDS
def test_envelopes_of_another_mode_and_changed_ones(kind: Any) -> None:
    key = key_of(kind)
    sealer = Sealer(key, Codec(key, "none"))
    stored = sealer.seal(b"\x00\x00data", sealer.reserve(6))
    for wrong in (b"", b"\x77" + stored[1:]):
        with pytest.raises(IntegrityError, match="envelope"):
            sealer.unseal(os.urandom(32), wrong)
    if kind is not PlaintextKey:
        with pytest.raises(IntegrityError, match="cannot be decrypted"):
            sealer.unseal(os.urandom(32), stored[:-1] + bytes([stored[-1] ^ 1]))

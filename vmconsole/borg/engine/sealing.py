"""Encryption with one key from many threads, and the only place that gives out nonces.

Borg's cipher objects keep the nonce and the message inside: they must not be shared between
threads, and decrypting an old message winds their nonce back to it. A nonce used twice gives the
plain text away. So every thread has its own cipher, the counter is kept here, and the key's own
encrypt() and decrypt() are replaced, so that what Borg itself seals comes the same way.
"""

from __future__ import annotations

import threading
from typing import Any

from borg.crypto.key import AESKeyBase, AuthenticatedKeyBase, PassphraseKey, RepoKey
from borg.crypto.low_level import IntegrityError as CipherError
from borg.helpers import IntegrityError, bin_to_hex

from vmconsole.borg.engine.codec import Buffer, Codec


class Sealer:
    """Seals frames for, and opens objects of, one repository."""

    def __init__(self, key: Any, codec: Codec) -> None:
        self._key = key
        self._codec = codec
        self._encrypts = isinstance(key, AESKeyBase) and not isinstance(key, AuthenticatedKeyBase)
        self._types = {key.TYPE} | ({PassphraseKey.TYPE} if isinstance(key, RepoKey) else set())
        self._local = threading.local()
        self._next = int(key.cipher.next_iv()) if self._encrypts else 0
        key.encrypt = self.encrypt
        key.decrypt = self.decrypt

    def reserve(self, length: int) -> int:
        """A nonce for a frame of length bytes. The caller holds the session's lock.

        Borg's nonce manager makes sure, on disk at both sides, that no other session has it.
        """
        if not self._encrypts:
            return 0
        blocks = int(self._key.cipher.block_count(length))
        nonce = int(self._key.nonce_manager.ensure_reservation(self._next, blocks))
        self._next = nonce + blocks
        return nonce

    def seal(self, frame: bytes, nonce: int) -> bytes:
        """The object to store. Any thread."""
        header = bytes([self._key.TYPE])
        if not self._encrypts:
            return header + frame
        return bytes(self._cipher().encrypt(frame, header=header, iv=nonce))

    def unseal(self, id_: bytes | None, stored: bytes) -> Buffer:
        """The frame inside a stored object. Any thread. Raises Borg's IntegrityError. id_: for messages."""
        name = bin_to_hex(id_) if id_ else "(manifest)"
        if not stored or stored[0] not in self._types:
            raise IntegrityError(f"chunk {name} has an envelope of another encryption mode")
        if not self._encrypts:
            return memoryview(stored)[1:]
        try:
            return bytes(self._cipher().decrypt(stored))
        except CipherError as error:
            raise IntegrityError(f"chunk {name} cannot be decrypted: {error}") from error

    def encrypt(self, chunk: bytes) -> bytes:
        """Stands in for the key's method. Called by Borg, under the session's lock."""
        frame = self._codec.compress(chunk)
        return self.seal(frame, self.reserve(len(frame)))

    def decrypt(self, id: bytes | None, data: bytes, decompress: bool = True) -> Buffer:  # noqa: A002 - Borg's name
        """Stands in for the key's method."""
        frame = self.unseal(id, data)
        if not decompress:
            return frame
        return self._codec.verified(id, frame) if id else self._codec.decompress(frame)

    def _cipher(self) -> Any:
        cipher = getattr(self._local, "cipher", None)
        if cipher is None:
            cipher = self._key.CIPHERSUITE(
                mac_key=self._key.enc_hmac_key, enc_key=self._key.enc_key, header_len=1, aad_offset=1
            )
            self._local.cipher = cipher
        return cipher

"""Encryption with one key from many threads.

Borg's cipher objects keep the nonce and the message inside and must not be shared between threads.
Every thread gets its own; which nonces it may use is decided in one place, reserve(), under the
lock of the session that writes: a nonce used twice would give the plain text away.
"""

from __future__ import annotations

import threading
from typing import Any

from borg.crypto.key import AESKeyBase, AuthenticatedKeyBase, PassphraseKey, RepoKey
from borg.crypto.low_level import IntegrityError as CipherError
from borg.helpers import IntegrityError

from vmconsole.borg.engine.codec import Buffer


class Sealer:
    """Seals frames for, and opens objects of, one repository."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self._encrypts = isinstance(key, AESKeyBase) and not isinstance(key, AuthenticatedKeyBase)
        self._types = {key.TYPE} | ({PassphraseKey.TYPE} if isinstance(key, RepoKey) else set())
        self._local = threading.local()

    def reserve(self, length: int) -> int:
        """A nonce for a frame of length bytes. The caller holds the session's lock.

        The key's own cipher is moved past it, so that what Borg itself encrypts stays clear of it.
        """
        if not self._encrypts:
            return 0
        blocks = self._key.cipher.block_count(length)
        nonce = int(self._key.nonce_manager.ensure_reservation(self._key.cipher.next_iv(), blocks))
        self._key.cipher.set_iv(nonce + blocks)
        return nonce

    def seal(self, frame: bytes, nonce: int) -> bytes:
        """The object to store. Any thread."""
        header = bytes([self._key.TYPE])
        if not self._encrypts:
            return header + frame
        return bytes(self._cipher().encrypt(frame, header=header, iv=nonce))

    def unseal(self, id: bytes, stored: bytes) -> Buffer:  # noqa: A002 - a chunk's id is its name everywhere
        """The frame inside a stored object. Any thread. Raises Borg's IntegrityError."""
        if not stored or stored[0] not in self._types:
            raise IntegrityError(f"chunk {id.hex()} has an envelope of another encryption mode")
        if not self._encrypts:
            return memoryview(stored)[1:]
        try:
            return bytes(self._cipher().decrypt(stored))
        except CipherError as error:
            raise IntegrityError(f"chunk {id.hex()} cannot be decrypted: {error}") from error

    def _cipher(self) -> Any:
        cipher = getattr(self._local, "cipher", None)
        if cipher is None:
            cipher = self._key.CIPHERSUITE(
                mac_key=self._key.enc_hmac_key, enc_key=self._key.enc_key, header_len=1, aad_offset=1
            )
            self._local.cipher = cipher
        return cipher

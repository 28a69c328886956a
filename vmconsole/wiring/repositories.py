"""Opening repositories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmconsole.config.secrets import passphrase
from vmconsole.config.settings import Config
from vmconsole.interfaces import Repository
from vmconsole.remote.local import LocalMachine


def open_repository(
    config: Config, name: str, local: LocalMachine, run: Callable[[Sequence[str]], bytes]
) -> Repository:
    """run: a program of this machine that prints a secret."""
    from vmconsole.borg.repository import BorgRepository
    from vmconsole.borg.settings import BorgSettings

    settings = config.repository(name)
    secret = settings.passphrase

    def secret_text() -> str | None:
        return None if secret is None else passphrase(secret, name, run=run)

    return BorgRepository(
        BorgSettings(
            name=name,
            location=settings.location,
            passphrase=secret_text,
            encryption=settings.encryption,
            compression=settings.compression,
            chunk_size=settings.chunk_size,
            lock_wait=settings.lock_wait,
            rsh=settings.rsh or "",
            remote_path=settings.remote_path or "",
        ),
        local,
    )

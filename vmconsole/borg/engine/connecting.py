"""Making Borg's repository objects, for a folder or over ssh, and getting rid of them in any state."""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import suppress
from typing import Any

from borg.helpers import Location
from borg.remote import RemoteRepository
from borg.repository import Repository

from vmconsole.borg.engine import quiet
from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import RepositoryError

UPLOAD_BUFFER_MIB = 8
ROLLBACK_SECONDS = 30.0
HANG_UP_SECONDS = 30.0
MAX_LAST_WORDS = 64 * 1024
_NOBODYS_ID = b"\xff" * 32


def connect(settings: BorgSettings, *, exclusive: bool, lock_wait: float) -> Any:
    """One of Borg's repository objects, open and locked. Raises Borg's errors, RepositoryError."""
    if settings.is_remote:
        return _connect_remote(settings, exclusive=exclusive, lock_wait=lock_wait)
    repository = Repository(str(settings.path), exclusive=exclusive, lock_wait=lock_wait)
    try:
        return repository.__enter__()
    except BaseException:
        shut(repository, clean=True)
        raise


def _connect_remote(settings: BorgSettings, *, exclusive: bool, lock_wait: float) -> Any:
    # The few options of Borg's command line that borg/remote.py looks at.
    args = Namespace(
        rsh=settings.remote_shell,
        remote_path=settings.remote_path,
        upload_ratelimit=0,
        upload_buffer=UPLOAD_BUFFER_MIB,
        debug_topics=[],
    )
    repository = RemoteRepository.__new__(RemoteRepository)
    # Borg closes by itself when opening fails, and would forget ssh's last words and a pipe.
    repository.close = lambda: _hang_up(repository)
    try:
        repository.__init__(Location(settings.location), exclusive=exclusive, lock_wait=lock_wait, args=args)
    except FileNotFoundError as error:
        raise RepositoryError(
            f"The command that reaches repository {settings.name} is not installed: {error.filename}.",
            hint="Install the OpenSSH client, or correct rsh in the configuration.",
            subject=settings.name,
        ) from error
    return repository


def _hang_up(repository: Any) -> None:
    """End the connection, and listen to what the other side still says on stderr."""
    process, repository.p = repository.p, None
    if process is None:
        return
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()
    deadline = time.monotonic() + HANG_UP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
        process.wait()
    with suppress(OSError):
        said = repository.stderr_received + (process.stderr.read(MAX_LAST_WORDS) or b"")
        for line in said.decode("utf-8", "replace").splitlines():
            quiet.hear_remote(line)
    process.stderr.close()


def shut(repository: Any, *, clean: bool) -> None:
    """Close one of Borg's repositories whatever state it is in, so that its lock is gone."""
    if isinstance(repository, RemoteRepository):
        _shut_remote(repository, clean=clean)
        return
    if not clean and repository.io is not None:
        # Uncommitted segments would only be dropped by the next writer; a full disk needs them gone now.
        with suppress(Exception):
            repository._rollback(cleanup=True)
    try:
        repository.close()
    except OSError:
        # Flushing the open segment failed (a full disk); the second time there is none to flush.
        repository.close()
    finally:
        repository.lock = None  # Borg asserts in __del__ that close() got this far.


def _shut_remote(repository: Any, *, clean: bool) -> None:
    if repository.p is None:
        return
    try:
        if not clean:
            repository.shutdown_time = time.monotonic() + ROLLBACK_SECONDS
            with suppress(Exception):
                repository.rollback()
                # There is no call to drop uncommitted segments; beginning a change does it first of all.
                repository.delete(_NOBODYS_ID)
            with suppress(Exception):
                repository.rollback()
    finally:
        repository.close()

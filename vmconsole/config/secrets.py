"""Fetch a passphrase, or an API token's secret, from where the configuration says. Nothing here logs,
stores or repeats one.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmconsole.config.secret_schema import SecretConfig, TokenConfig
from vmconsole.errors import ConfigError, ToolMissing

RunCommand = Callable[[Sequence[str]], bytes]
"""Runs a program and returns what it printed; raises VmconsoleError when it fails."""

_MAX_BYTES = 64 << 10


def passphrase(
    secret: SecretConfig, subject: str, *, run: RunCommand, environ: Mapping[str, str] = os.environ
) -> str:
    """A repository's passphrase, without the one newline that files and programs end with.

    subject: the repository's name, for messages. Raises ConfigError, ToolMissing, and what run raises.
    Keep the result out of dataclasses and messages: their text ends up in logs.
    """
    return _fetch(secret, _About("passphrase", f"repository {subject}", subject), run, environ)


def token_secret(
    token: TokenConfig, subject: str, *, run: RunCommand, environ: Mapping[str, str] = os.environ
) -> str:
    """The secret of a host's API token. subject: the host's name. As passphrase() otherwise."""
    return _fetch(token, _About("API token", f"host {subject}", subject), run, environ).strip()


def channel_url(
    secret: SecretConfig, channel: str, *, run: RunCommand, environ: Mapping[str, str] = os.environ
) -> str:
    """The URL of a channel for alerts. As passphrase() otherwise."""
    return _fetch(secret, _About("URL", f"channel {channel}", channel), run, environ).strip()


@dataclass(frozen=True, slots=True)
class _About:
    """For messages: what is fetched, and whose it is."""

    noun: str
    owner: str
    subject: str


def _fetch(secret: SecretConfig, about: _About, run: RunCommand, environ: Mapping[str, str]) -> str:
    if secret.file is not None:
        found = _text(_read(secret.file, about, private=True), about)
    elif secret.command is not None:
        found = _text(run(secret.command), about)
    elif secret.env is not None:
        found = _from_environment(secret.env, about, environ)
    elif secret.credential is not None:
        found = _text(_from_credential(secret.credential, about, environ), about)
    else:
        assert secret.keyring is not None
        found = _from_keyring(secret.keyring, about)
    if not found:
        raise ConfigError(
            f"The {about.noun} of {about.owner} is empty ({_source(secret)}).",
            hint="Look at what the configuration names there.",
            subject=about.subject,
        )
    return found


def _source(secret: SecretConfig) -> str:
    """Where it comes from, for messages; for a command only the program, its arguments may be private."""
    if secret.command is not None:
        return f"command {secret.command[0]}"
    name, value = next((n, v) for n, v in secret if v is not None and n in SecretConfig.model_fields)
    return f"{name} {value}"


def _text(content: bytes, about: _About) -> str:
    try:
        return content.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        # the error object holds the passphrase: it must not travel on
        raise ConfigError(
            f"The {about.noun} of {about.owner} is not UTF-8 text.",
            hint="Save it as UTF-8 text, without anything else.",
            subject=about.subject,
        ) from None


def _read(path: Path, about: _About, *, private: bool) -> bytes:
    """A regular file's content. private: only its owner, who must be us, may have any right to it."""
    try:
        # a FIFO without O_NONBLOCK would hang here before it could be refused
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"The {about.noun} file {path} of {about.owner} cannot be read: {error.strerror}.",
            hint=f"Make it with: (umask 077; cat > {shlex.quote(str(path))})"
            if isinstance(error, FileNotFoundError)
            else f"Look at its owner and mode: ls -l {shlex.quote(str(path))}",
            subject=about.subject,
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"The {about.noun} file {path} of {about.owner} is not a regular file.",
                hint=f"Name a file that holds nothing but the {about.noun}.",
                subject=about.subject,
            )
        if private:
            _check_private(path, status, about)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"The {about.noun} file {path} of {about.owner} is larger than 64 KiB.",
            hint=f"Name a file that holds nothing but the {about.noun}.",
            subject=about.subject,
        )
    return content


def _check_private(path: Path, status: os.stat_result, about: _About) -> None:
    quoted = shlex.quote(str(path))
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"The {about.noun} file {path} of {about.owner} belongs to {_user(status.st_uid)}, "
            f"not to {_user(os.geteuid())}.",
            hint=f"chown {_user(os.geteuid())} {quoted}",
            subject=about.subject,
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode not in (0o600, 0o400):
        raise ConfigError(
            f"The {about.noun} file {path} of {about.owner} has mode {mode:04o}; "
            "only its owner may have rights to it.",
            hint=f"chmod 600 {quoted}",
            subject=about.subject,
        )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _from_environment(name: str, about: _About, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigError(
            f"The environment variable {name} for the {about.noun} of {about.owner} is not set.",
            hint=f"Set {name}, or name a file or command in the configuration.",
            subject=about.subject,
        )
    return environ[name].removesuffix("\n")


def _from_credential(name: str, about: _About, environ: Mapping[str, str]) -> bytes:
    """systemd.exec(5): a service finds its credentials as files in $CREDENTIALS_DIRECTORY."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"The {about.noun} of {about.owner} is the systemd credential {name}, "
            "but this was not started by systemd with credentials.",
            hint=f"Put LoadCredentialEncrypted={name} into the service, or run it there: "
            f"systemd-run --pty -p LoadCredential={name}:/path/to/passphrase vmconsole …",
            subject=about.subject,
        )
    return _read(Path(folder) / name, about, private=False)


def _from_keyring(name: str, about: _About) -> str:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ToolMissing(
            f"The {about.noun} of {about.owner} is in the keyring, but the keyring package is missing.",
            hint="pipx inject vmconsole keyring",
            subject=about.subject,
        ) from None
    service, _, user = name.partition("/")
    try:
        found: str | None = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"The keyring does not give the {about.noun} of {about.owner}: {error}.",
            hint="A service has no desktop keyring; name a file or a systemd credential instead.",
            subject=about.subject,
        ) from None
    if found is None:
        raise ConfigError(
            f"The keyring holds no {about.noun} {service}/{user} for {about.owner}.",
            hint=f"keyring set {shlex.quote(service)} {shlex.quote(user)}",
            subject=about.subject,
        )
    return found

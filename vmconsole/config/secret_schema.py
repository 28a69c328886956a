"""Where secrets come from, as the configuration says it. Fetching them: secrets.py."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import BaseModel, field_validator, model_validator

from vmconsole.config.values import RULES, LocalPath, Text, Texts

_TOKEN = re.compile(r"[^\s@!:/]+@[A-Za-z][A-Za-z0-9._-]*![A-Za-z][A-Za-z0-9._-]*")


class SecretConfig(BaseModel):
    """Where a passphrase comes from; never the passphrase itself."""

    model_config = RULES

    file: LocalPath | None = None
    """A file that only you can read (mode 0600)."""
    command: Texts | None = None
    """A program and its arguments; the passphrase is what it prints."""
    env: Text | None = None
    """Name of an environment variable."""
    credential: Text | None = None
    """Name of a systemd credential (LoadCredential= or LoadCredentialEncrypted=)."""
    keyring: Text | None = None
    """SERVICE/USER in the desktop's keyring."""

    _refusal: ClassVar[str] = (
        "a passphrase never stands in the configuration: write where it comes from, "
        'such as { file = "passphrase" } or { command = ["pass", "show", "borg"] }'
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_text(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(cls._refusal)
        return value

    @field_validator("command")
    @classmethod
    def _check_command(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError('must name a program, such as ["pass", "show", "borg"]')
        return value

    @field_validator("env")
    @classmethod
    def _check_env(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable")
        return value

    @field_validator("credential")
    @classmethod
    def _check_credential(cls, value: str | None) -> str | None:
        if value is not None and (value in (".", "..") or "/" in value):
            raise ValueError("must be the name of a systemd credential, without /")
        return value

    @field_validator("keyring")
    @classmethod
    def _check_keyring(cls, value: str | None) -> str | None:
        if value is not None and not all(value.partition("/")):
            raise ValueError("must be SERVICE/USER")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretConfig:
        given = [name for name in SecretConfig.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of file, command, env, credential, keyring (found {found})")
        return self


class TokenConfig(SecretConfig):
    """An API token of Proxmox: its name, and where its secret comes from; never the secret itself."""

    id: Text
    """USER@REALM!NAME, as in "backup@pve!vmconsole"."""

    _refusal: ClassVar[str] = (
        "a token's secret never stands in the configuration: write its name and where the secret comes "
        'from, such as { id = "backup@pve!vmconsole", file = "token" }'
    )

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        if not _TOKEN.fullmatch(value):
            raise ValueError('must be USER@REALM!NAME, such as "backup@pve!vmconsole"')
        return value

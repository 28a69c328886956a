"""The HTTPS API of a host, when the configuration gives a token for it."""

from __future__ import annotations

from vmconsole.config.host_schema import HostConfig
from vmconsole.config.secrets import RunCommand, token_secret
from vmconsole.hypervisors.proxmox.https import HttpsApi, HttpsSettings


def https_api(name: str, settings: HostConfig, run: RunCommand) -> HttpsApi | None:
    """run: starts the program that the token's secret comes from."""
    token = settings.api_token
    if settings.api is None or token is None:
        return None
    return HttpsApi(
        HttpsSettings(
            host=name,
            url=settings.api,
            token=token.id,
            secret=lambda: token_secret(token, name, run=run),
            ca_file=settings.api_ca,
            fingerprint=settings.api_fingerprint or "",
            timeout=settings.command_timeout,
        )
    )

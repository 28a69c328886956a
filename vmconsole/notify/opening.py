"""Channels and the metrics file, as the configuration names them."""

from __future__ import annotations

from vmconsole.config.plan_schema import ChannelConfig
from vmconsole.config.secrets import RunCommand, channel_url
from vmconsole.notify.channels import AppriseChannel


def open_channel(name: str, settings: ChannelConfig, run: RunCommand) -> AppriseChannel:
    """run: starts the program that a secret comes from."""

    def url() -> str:
        if settings.secret is not None:
            return channel_url(settings.secret, name, run=run)
        assert settings.url is not None
        return settings.url

    return AppriseChannel(name, url, settings.on)

"""The client's negotiation, with servers of every kind."""

from __future__ import annotations

import socket
import time
import tracemalloc

import nbd_rig as rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient, list_exports
from vmconsole.disks.nbd.protocol import ExportFlag, Option, OptionReply
from vmconsole.errors import (
    HostError,
    HostUnreachable,
    NotPermitted,
    ProtocolError,
    UsageError,
    VmconsoleError,
)

MINIMAL = rig.greeting() + rig.ack(Option.STRUCTURED_REPLY)


def connect(said: bytes, *contexts: str, silent: bool = False, timeout: float = 5) -> NbdClient:
    return NbdClient.connect(rig.Script(said, silent=silent), "vda", contexts, timeout=timeout)


def reply(option: Option, kind: int, data: bytes = b"") -> bytes:
    return protocol.OPTION_REPLY.pack(protocol.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def test_a_sound_negotiation() -> None:
    flags = ExportFlag.HAS_FLAGS | ExportFlag.READ_ONLY | ExportFlag.CAN_MULTI_CONN
    said = rig.hello(1 << 40, flags=flags, contexts=("base:allocation",), sizes=(512, 4096, 1 << 25))
    client = connect(said, "base:allocation", "qemu:dirty-bitmap:b")
    assert (client.size, client.read_only, client.can_multi_conn) == (1 << 40, True, True)
    assert (client.min_block, client.preferred_block, client.max_block) == (512, 4096, 1 << 25)
    assert client.contexts == ("base:allocation",)
    client.require_context("base:allocation")
    with pytest.raises(ProtocolError, match="qemu:dirty-bitmap:b"):
        client.require_context("qemu:dirty-bitmap:b")


def test_what_the_client_says() -> None:
    stream = rig.Script(rig.hello(4096))
    NbdClient.connect(stream, "vda", ("base:allocation",)).close()
    expected = (
        protocol.CLIENT_FLAGS.pack(3)
        + protocol.option(Option.STRUCTURED_REPLY)
        + protocol.option(Option.SET_META_CONTEXT, protocol.meta_request(b"vda", [b"base:allocation"]))
        + protocol.option(Option.GO, protocol.go_request(b"vda", [protocol.Info.BLOCK_SIZE]))
        + protocol.request(protocol.Command.DISC, 1)
    )
    assert bytes(stream.heard) == expected
    assert stream.closed


def test_a_server_without_structured_replies_has_no_contexts() -> None:
    client = connect(rig.hello(4096, structured=False), "base:allocation")
    assert client.contexts == ()
    with pytest.raises(HostError, match="does not say"):
        client.block_status()


@pytest.mark.parametrize("no_zeroes", [True, False])
def test_a_server_without_go(no_zeroes: bool) -> None:
    said = (
        rig.greeting(3 if no_zeroes else 1)
        + reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
        + reply(Option.GO, OptionReply.ERR_UNSUP)
        + protocol.EXPORT_INFO.pack(8192, rig.FLAGS)
        + (b"" if no_zeroes else bytes(124))
        + rig.simple(1)
        + b"x" * 512
    )
    client = connect(said)
    assert client.size == 8192
    assert list(client.read([(0, 512)])) == [(0, b"x" * 512)]


def test_contexts_that_are_refused_are_none() -> None:
    said = (
        MINIMAL
        + reply(Option.SET_META_CONTEXT, OptionReply.ERR_TOO_BIG)
        + reply(Option.GO, OptionReply.INFO, rig.info(4096))
        + rig.ack(Option.GO)
    )
    assert connect(said, "base:allocation").contexts == ()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (OptionReply.ERR_UNKNOWN, HostError, "offers no disk “vda”"),
        (OptionReply.ERR_TLS_REQD, HostError, "TLS"),
        (OptionReply.ERR_POLICY, NotPermitted, "refused"),
        (OptionReply.ERR_SHUTDOWN, HostUnreachable, "shutting down"),
        (OptionReply.ERR_BLOCK_SIZE_REQD, ProtocolError, "error 8"),
        (1 << 31, ProtocolError, "error 0"),
    ],
)
def test_refusals(kind: int, error: type[VmconsoleError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        connect(MINIMAL + reply(Option.GO, kind, b"a word\x1b[31m"))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2",
        protocol.GREETING.pack(protocol.INIT_MAGIC, protocol.OLDSTYLE_MAGIC, 0),
        protocol.GREETING.pack(protocol.INIT_MAGIC, 7, 3),
        rig.greeting(0),
        rig.greeting() + b"\0" * 20,
        rig.greeting() + rig.ack(Option.LIST),
        rig.greeting() + protocol.OPTION_REPLY.pack(protocol.OPTION_REPLY_MAGIC, 8, 1, 2**32 - 1),
        MINIMAL + rig.ack(Option.GO),
        MINIMAL + reply(Option.GO, OptionReply.SERVER, b"") + rig.ack(Option.GO),
        MINIMAL + reply(Option.GO, OptionReply.INFO, b"x") + rig.ack(Option.GO),
        MINIMAL + reply(Option.GO, OptionReply.INFO, rig.info(4096)[:-1]) + rig.ack(Option.GO),
        MINIMAL + reply(Option.GO, OptionReply.INFO, rig.info(2**63)) + rig.ack(Option.GO),
        MINIMAL + reply(Option.GO, OptionReply.INFO, rig.info(4096, 0)) + rig.ack(Option.GO),
        rig.hello(4096, contexts=(), sizes=(3, 4096, 1 << 25)),
        rig.hello(4096, contexts=(), sizes=(0, 4096, 1 << 25)),
        rig.hello(4096, contexts=(), sizes=(1 << 17, 1 << 17, 1 << 25)),
        rig.hello(4096, contexts=(), sizes=(4096, 512, 1 << 25)),
        rig.hello(4096, contexts=(), sizes=(512, 4096, 1)),
        rig.hello(4096, contexts=(), sizes=(4096, 4096, 4097)),
        MINIMAL + reply(Option.GO, 1000) * 10_001,
    ],
)
def test_lies(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        connect(said)


@pytest.mark.parametrize(
    "said",
    [
        reply(Option.SET_META_CONTEXT, OptionReply.INFO, b"12345"),
        reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, b"123"),
        reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, b"\0\0\0\1other:thing"),
        reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, b"\0\0\0\1base:allocation") * 2,
    ],
)
def test_lies_about_contexts(said: bytes) -> None:
    with pytest.raises(ProtocolError, match="context"):
        connect(MINIMAL + said + rig.ack(Option.SET_META_CONTEXT), "base:allocation")


def test_answers_without_end_do_not_fill_the_memory() -> None:
    info = reply(Option.GO, 1000, bytes(16 * 1024))
    said = MINIMAL + info * 5000
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        connect(said)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * rig.MIB


@pytest.mark.parametrize("cut", range(0, len(rig.hello(4096)), 7))
def test_a_connection_that_ends(cut: int) -> None:
    with pytest.raises(HostUnreachable, match="closed"):
        connect(rig.hello(4096)[:cut], "base:allocation")


def test_silence_ends_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="did not answer"):
        connect(rig.greeting(), silent=True, timeout=0.1)
    assert time.monotonic() - began < 2


def test_a_silent_socket_ends_in_time_and_is_closed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(HostUnreachable, match="did not answer"):
            NbdClient.connect(ours, "vda", timeout=0.1)
        assert ours.fileno() == -1


@settings(deadline=2000, max_examples=200)
@given(st.binary(max_size=300))
def test_random_bytes(said: bytes) -> None:
    with pytest.raises((ProtocolError, HostError)):
        connect(said, "base:allocation")


@settings(deadline=2000, max_examples=300)
@given(st.data())
def test_a_sound_negotiation_with_damage(data: st.DataObject) -> None:
    said = bytearray(rig.hello(1 << 30, sizes=(512, 4096, 1 << 25)))
    for _ in range(data.draw(st.integers(1, 4))):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    try:
        client = connect(bytes(said), "base:allocation")
    except (ProtocolError, HostError):
        return
    assert 0 <= client.size < 2**63


@pytest.mark.parametrize("name", ["x" * 4097, "a\0b"])
def test_names_that_cannot_be_sent(name: str) -> None:
    with pytest.raises(UsageError):
        NbdClient.connect(rig.Script(rig.greeting()), name)


def test_listing_exports() -> None:
    names = [b"vda", "größe".encode(), b"\xff\xfe"]
    said = rig.greeting() + b"".join(
        reply(Option.LIST, OptionReply.SERVER, protocol.string(name) + b"described") for name in names
    )
    stream = rig.Script(said + rig.ack(Option.LIST))
    assert list_exports(stream) == ["vda", "größe", "\udcff\udcfe"]
    assert stream.closed


@pytest.mark.parametrize("data", [b"", b"\0\0\0\5abc", b"\xff\xff\xff\xffabc"])
def test_listing_exports_of_a_liar(data: bytes) -> None:
    said = rig.greeting() + reply(Option.LIST, OptionReply.SERVER, data) + rig.ack(Option.LIST)
    with pytest.raises(ProtocolError):
        list_exports(rig.Script(said))


def test_listing_exports_where_that_is_forbidden() -> None:
    with pytest.raises(NotPermitted):
        list_exports(rig.Script(rig.greeting() + reply(Option.LIST, OptionReply.ERR_POLICY)))

"""Members of a tar that streams by, with Python's tarfile and GNU tar as judges."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.disks.tarstream import TarMember, TarStream
from vmconsole.errors import ProtocolError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "d" * 90 + "/" + "f" * 240


def members(content: bytes, seed: int = 0, *, finish: bool = True) -> list[TarMember]:
    """What is found when it comes in pieces of all sizes."""
    found: list[TarMember] = []
    stream, source, position = TarStream(found.append), random.Random(seed), 0
    while position < len(content):
        length = source.choice([1, 7, 500, 512, 513, 1024, 70_000])
        stream.feed(memoryview(content)[position : position + length])
        position += length
    if finish:
        stream.finish()
    return found


def build(entries: list[tuple[tarfile.TarInfo, bytes]], format_: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format_) as writer:
        for info, data in entries:
            writer.addfile(info, io.BytesIO(data))
    return made.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    for key, value in values.items():
        setattr(made, key, value)
    return made


KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(FORMATS[1:]))
def test_finds_what_tarfile_finds(seed: int, format_: int) -> None:
    source = random.Random(seed)
    entries = []
    for number in range(source.randrange(12)):
        kind = source.choice(KINDS)
        data = (
            source.randbytes(source.choice([0, 1, 511, 512, 513, 3000])) if kind == tarfile.REGTYPE else b""
        )
        name = source.choice(["a", "ä/ö", "x" * 99, "x" * 101, LONG, "\udcff\udc80"]) + str(number)
        link = source.choice(["t", "t" * 150]) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        mtime = source.choice([0, 1_700_000_000]) + (0.25 if format_ == tarfile.PAX_FORMAT else 0)
        owner = source.choice([0, 1000, 3_000_000])
        entries.append(
            (info(name, kind, len(data), linkname=link, mtime=mtime, uid=owner, gid=owner, mode=0o4755), data)
        )
    content = build(entries, format_)
    found = members(content, seed)
    with tarfile.open(fileobj=io.BytesIO(content)) as judge:
        wanted = judge.getmembers()
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.path.rstrip("/") == theirs.name.rstrip("/")
        assert (ours.size, ours.mode, ours.uid, ours.mtime) == (
            theirs.size, theirs.mode, theirs.uid, theirs.mtime,
        )  # fmt: skip
        assert (ours.data, ours.link) == (theirs.offset_data, theirs.linkname)
        assert (ours.type == "file", ours.type == "dir") == (theirs.isreg(), theirs.isdir())
        alone = content[ours.start : ours.end] + bytes(1024)
        with tarfile.open(fileobj=io.BytesIO(alone)) as part:
            (only,) = part.getmembers()
            assert only.name == theirs.name


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def gnu_tar(folder: Path, *words: str) -> bytes:
    return subprocess.run(
        ["tar", "-c", "-f", "-", "-C", str(folder), *words, "."], check=True, capture_output=True
    ).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--format=posix", "--xattrs", "--acls", "--sparse", "--numeric-owner", "--one-file-system", "-p"],
        ["--format=gnu", "--sparse"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=ustar"],
        ["--format=v7"],
    ],
    ids=["vzdump", "gnu", "sparse-0.0", "sparse-0.1", "ustar", "v7"],
)
def test_gnu_tar(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "plain").write_bytes(b"plain")
    (tmp_path / "dir" / "hard").hardlink_to(tmp_path / "dir" / "plain")
    (tmp_path / "link").symlink_to("dir/plain")
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(40):  # more than the four, and the 21 behind them, of the old format
            file.seek(number * 65536)
            file.write(b"x" * 4096)
        file.truncate(8_000_000)
    if words[0] not in ("--format=ustar", "--format=v7"):
        (tmp_path / ("n" * 200)).write_bytes(b"long")
    content = gnu_tar(tmp_path, *words)
    found = members(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as judge:
        wanted = {item.name.rstrip("/"): item for item in judge.getmembers()}
        for ours in found:
            theirs = wanted.pop(ours.path.rstrip("/"))
            assert ours.size == theirs.size
            assert ours.sparse == theirs.issparse()
            if theirs.isreg():
                with tarfile.open(fileobj=io.BytesIO(content[ours.start : ours.end] + bytes(1024))) as alone:
                    assert read(alone, alone.getmembers()[0]) == read(judge, theirs)
    assert wanted == {}
    assert max(member.size for member in found) == 8_000_000


class TestHostile:
    def test_every_cut_is_noticed(self) -> None:
        content = build([(info("a", size=600), b"x" * 600), (info(LONG), b"")], tarfile.GNU_FORMAT)
        end = len(content.rstrip(b"\0"))
        for length in range(0, end, 97):
            stream = TarStream(lambda member: None)
            stream.feed(content[:length])
            with pytest.raises(ProtocolError, match="ended too early"):
                stream.finish()

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 2**32))
    def test_damage_is_an_error_or_harmless(self, seed: int) -> None:
        source = random.Random(seed)
        good = build([(info("a" * 150, size=600), b"x" * 600)] * 3, source.choice(FORMATS[1:]))
        bad = bytearray(good)
        for _ in range(source.randrange(1, 20)):
            bad[source.randrange(len(bad))] = source.randrange(256)
        with suppress(ProtocolError):
            members(bytes(bad), seed)

    @settings(max_examples=100)
    @given(st.binary(max_size=4000))
    def test_noise(self, content: bytes) -> None:
        with pytest.raises(ProtocolError):
            members(content)

    @pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
    def test_huge_names_are_refused(self, kind: bytes) -> None:
        with pytest.raises(ProtocolError, match="extended header claims"):
            members(header(kind=kind, size=1 << 33))

    def test_a_sparse_map_without_end(self) -> None:
        block = bytearray(512)
        block[504] = 1
        stream = TarStream(lambda member: None)
        stream.feed(header(kind=b"S", sparse=True))
        many = bytes(block) * 4096
        for _ in range(244):
            stream.feed(many)
        with pytest.raises(ProtocolError, match="does not end"):
            stream.feed(many)

    def test_negative_and_absurd_sizes(self) -> None:
        for field in (b"\xff" * 12, b"-0000000001\0", b"99999999999\0", b"\x80" + b"\xff" * 11):
            with pytest.raises(ProtocolError):
                members(header(field=field))

    def test_many_records_cost_no_memory(self) -> None:
        records = b"".join(pax_record(f"K{number}", b"v") for number in range(200_000))
        content = header(kind=b"x", size=len(records)) + records + bytes(-len(records) % 512)
        tracemalloc.start()
        members(content + header() + bytes(1024))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * len(records)

    def test_what_follows_the_end_is_not_looked_at(self) -> None:
        assert len(members(header() + bytes(1024) + b"\xff" * 5000)) == 1


def pax_record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def header(kind: bytes = b"0", size: int = 0, field: bytes = b"", *, sparse: bool = False) -> bytes:
    block = bytearray(512)
    block[:4] = b"name"
    block[124:136] = field or (
        f"{size:011o}\0".encode() if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    )
    block[156:157] = kind
    block[482] = sparse
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)

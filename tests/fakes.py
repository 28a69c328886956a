"""In-memory stand-ins for the interfaces, for tests of `runs`. They keep a diary of what was called."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vmconsole.errors import PointNotFound
from vmconsole.interfaces import Cancel, Context
from vmconsole.model.export import Cut, DiskPlan, ExportPlan
from vmconsole.model.extent import Content, Extent
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostKind, HostLoad
from vmconsole.model.point import Consistency, Mode
from vmconsole.model.run import Run, RunState
from vmconsole.model.vitals import Vitals

MIB = 1 << 20


class Diary(list):
    def words(self):
        return [entry.split()[0] for entry in self]


class FakeClock:
    def __init__(self):
        self.time = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)

    def now(self):
        return self.time

    def monotonic(self):
        self.time += timedelta(seconds=0.1)
        return (self.time - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()


class FakeJournal:
    def acquire(self, host, kind, payload):
        return 1

    def release(self, entry):
        pass


def context(events=None, cancel=None):
    sink = events.append if events is not None else (lambda event: None)
    return Context("run1", sink, cancel or Cancel(), FakeJournal(), FakeClock())


def guest(name="web", uuid="aaaa1111-0000-4000-8000-000000000001"):
    return Guest(uuid, "1", name, "kvm1", GuestKind.VM, GuestState.RUNNING)


class FakeDisk:
    """Holds the bytes now, and which ranges changed since the parent."""

    def __init__(self, plan, content, extents):
        self.plan = plan
        self.content = content
        self._extents = extents
        self.bitmap = "bitmap-1"
        self.process = "7:1"
        self.bytes_dirty = sum(e.length for e in extents if e.content is not Content.CLEAN)
        self.fail_after = None

    def extents(self):
        return self._extents

    def read(self, extents):
        for number, extent in enumerate(extents):
            if self.fail_after is not None and number >= self.fail_after[0]:
                raise self.fail_after[1]
            half = max(1, extent.length // 2)
            yield extent.offset + half, self.content[extent.offset + half : extent.end]
            yield extent.offset, self.content[extent.offset : extent.offset + half]


class FakeExport:
    feed = None

    def __init__(self, diary, disks, clock, consistency=Consistency.APPLICATION):
        self._diary = diary
        self.disks = disks
        self.cut = Cut(clock.now(), consistency, 12, (), {"fact": 1})
        self.files = {"config/libvirt.xml": b"<domain/>"}
        self.fail = {}

    def _say(self, word):
        self._diary.append(word)
        if word in self.fail:
            raise self.fail[word]

    def check(self):
        if "check" in self.fail:
            raise self.fail["check"]

    def release(self):
        self._say("release")

    def advance(self):
        self._say("advance")

    def rollback(self):
        self._diary.append("rollback")


class FakeHypervisor:
    """One guest with one disk of four MiB: data, zeros, data, data."""

    name = "kvm1"
    kind = HostKind.LIBVIRT

    def __init__(self, diary):
        self.diary = diary
        self.clock = FakeClock()
        self.content = b"a" * MIB + bytes(MIB) + b"b" * MIB + b"c" * MIB
        self.options = []
        self.prepare = lambda export: None

    def vitals(self, uuids):
        return Vitals(HostLoad())

    def plan(self, uuid, repository, points, options):
        self.diary.append("plan")
        self.options.append(options)
        parent = points[0].archive if points and not options.full_reason else ""
        mode = Mode.INCREMENTAL if parent else Mode.FULL
        disk = DiskPlan("vda", 4 * MIB, "qcow2", "/vda", mode, options.full_reason or "first", parent, MIB)
        return ExportPlan(guest(uuid=uuid), (disk,), "pull", "", options)

    def export(self, plan, context):
        self.diary.append("export")
        if plan.mode is Mode.FULL:
            extents = [
                Extent(0, MIB, Content.DATA),
                Extent(MIB, MIB, Content.ZERO),
                Extent(2 * MIB, 2 * MIB, Content.DATA),
            ]
        else:
            extents = [Extent(0, 3 * MIB, Content.CLEAN), Extent(3 * MIB, MIB, Content.DATA)]
        export = FakeExport(self.diary, [FakeDisk(plan.disks[0], self.content, extents)], self.clock)
        self.prepare(export)
        return export


class FakeDiskWriter:
    def __init__(self, size, parent):
        self.bytes = bytearray(size)
        self.covered = 0
        self.parent = parent
        self.bytes_stored = 0

    def reuse(self, offset, length):
        self.bytes[offset : offset + length] = self.parent[offset : offset + length]
        self.covered += length

    def zero(self, offset, length):
        self.covered += length

    def data(self, offset, buffer):
        self.bytes[offset : offset + len(buffer)] = buffer
        self.covered += len(buffer)
        self.bytes_stored += len(buffer)

    def close(self):
        assert self.covered == len(self.bytes)


class FakeStream:
    """A StreamWriter that keeps what it gets."""

    def __init__(self):
        self.bytes = bytearray()
        self.closed = False

    @property
    def size(self):
        return len(self.bytes)

    @property
    def bytes_stored(self):
        return len(self.bytes)

    @property
    def sha256(self):
        return hashlib.sha256(self.bytes).hexdigest()

    def write(self, data):
        assert not self.closed
        self.bytes += data

    def close(self):
        self.closed = True


class FakeArchive:
    def __init__(self, repository, name):
        self._repository = repository
        self._name = name
        self._disks = {}

    def disk(self, path, size, parent=None):
        source = bytes(self._repository.disks[parent]) if parent else b""
        writer = self._disks[path] = FakeDiskWriter(size, source)
        return writer

    def stream(self, path):
        stream = self._disks[path] = FakeStream()
        return stream

    def commit(self, point, files):
        self._repository.diary.append("commit")
        if self._repository.fail_commit:
            raise self._repository.fail_commit
        self._repository.saved.insert(0, replace(point, archive_id=f"id-{point.archive}"))
        self._repository.members[point.archive] = dict(files)
        for path, writer in self._disks.items():
            self._repository.disks[point.archive, path] = bytes(writer.bytes)
        return f"id-{point.archive}"

    def abort(self):
        self._repository.diary.append("abort")


class FakeRepository:
    name = "main"
    chunk_size = MIB

    def __init__(self, diary):
        self.diary = diary
        self.saved = []
        self.members = {}
        self.disks = {}
        self.fail_commit = None
        self.pinned = {}
        self.fail_delete = None

    def id(self):
        return "ab" * 32

    def points(self):
        pinned = () if isinstance(self.pinned, Exception) else self.pinned
        return [replace(point, pinned=point.archive in pinned) for point in self.saved]

    def pins(self):
        if isinstance(self.pinned, Exception):
            raise self.pinned
        return dict(self.pinned)

    def set_pins(self, pins):
        self.diary.append("set_pins")
        self.pinned = dict(pins)

    def delete(self, archives, context):
        self.diary.append(f"delete {' '.join(archives)}")
        if self.fail_delete:
            raise self.fail_delete
        self.saved = [point for point in self.saved if point.archive not in archives]

    def compact(self, context):
        self.diary.append("compact")
        return 5 << 20

    def space(self):
        return 1 << 30, 4 << 30

    def archive(self, name):
        return FakeArchive(self, name)

    @contextmanager
    def writer(self, context):
        yield self

    @contextmanager
    def reader(self, *, wait=None):
        yield self

    def files(self, archive):
        return self.members[archive]

    def open_disk(self, archive, path):
        if (archive, path) not in self.disks:
            raise PointNotFound("no such disk")
        return FakeReader(self.disks[archive, path])


class FakeReader:
    def __init__(self, content):
        self._content = content
        self.size = len(content)

    def read_at(self, offset, length):
        return self._content[offset : offset + length]

    def extents(self):
        for offset in range(0, self.size, MIB):
            piece = self._content[offset : offset + MIB]
            yield Extent(offset, len(piece), Content.DATA if any(piece) else Content.ZERO)


class FakeStore:
    """Just enough of a RunStore for the runner."""

    def __init__(self):
        self.finished = []
        self.log = []
        self.claims = {}
        self.entries = []
        self.released = []
        self.saved_points = {}

    def start_run(self, kind, subject):
        return Run("run1", kind, subject, RunState.RUNNING, "host:1:1", datetime.now(UTC))

    def finish_run(self, run, state, error, exit_code):
        self.finished.append((state, error, exit_code))

    def add_event(self, run, document):
        self.log.append(document)

    def journal(self, run):
        store = self

        class Journal(FakeJournal):
            def release(self, entry):
                store.released.append(entry)

        return Journal()

    def claim(self, key, run):
        return self.claims.setdefault(key, run)

    def release_claim(self, key, run):
        if self.claims.get(key) == run:
            del self.claims[key]

    def release_claims(self, run):
        self.claims = {key: holder for key, holder in self.claims.items() if holder != run}

    def save_points(self, repository, points):
        self.saved_points[repository] = list(points)

    def open_entries(self):
        return self.entries

    def process_is_dead(self, process):
        return process.startswith("dead")

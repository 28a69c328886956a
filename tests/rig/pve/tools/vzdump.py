"""vzdump ID --stdout [--dumpdir FOLDER] [--mode snapshot|suspend|stop] [--compress 0] …: the archive on stdout,
the log on stderr."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from pve.tools import conf, storage, vma, wire
from pve.tools.says import Died, Words, node_name, words

LOCK = Path("/run/vzdump.lock")
_OPTIONS = (
    "stdout", "dumpdir", "mode", "compress", "fleecing", "bwlimit", "quiet", "ionice", "tmpdir", "storage",
    "notification-mode", "mailnotification", "lockwait", "performance", "exclude-path",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    given = words(argv, ["stdout", "quiet"])
    given.only(*_OPTIONS)
    vmid = given.vmid()
    if not given.on("stdout"):
        raise Died("the lab's vzdump writes to stdout only")
    if given.get("storage") or not given.get("dumpdir"):
        raise Died("cannot use options 'storage' and 'stdout' at the same time")
    if len(given.plain) != 1:
        raise Died("you can only backup a single VM with option --stdout")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _interrupted)
    _say(f"starting new backup job: vzdump {' '.join(argv)}")
    with _node_lock(float(given.get("lockwait", "180")) * 60):
        kind, node = conf.find(vmid) or ("qemu", "")
        if node != node_name():
            raise Died(f"unable to find VM '{vmid}'")
        begun = time.monotonic()
        _say(f"Starting Backup of {conf.KINDS[kind]} {vmid} ({'qemu' if kind == 'qemu' else 'lxc'})")
        try:
            with guest_lock(vmid, kind):
                (dump_vm if kind == "qemu" else dump_ct)(vmid, given)
        except Died as death:
            raise Died(
                f"ERROR: Backup of VM {vmid} failed - {death}\nINFO: Backup job finished with errors\n"
                "job errors", 255,
            ) from None  # fmt: skip
        _say(
            f"Finished Backup of VM {vmid} ({time.strftime('%H:%M:%S', time.gmtime(time.monotonic() - begun))})"
        )
    _say("Backup job finished successfully")
    return 0


def _interrupted(number: int, _: object) -> None:
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Died("interrupted by signal")


def _say(what: str) -> None:
    print(f"INFO: {what}", file=sys.stderr, flush=True)


@contextmanager
def _node_lock(patience: float) -> Iterator[None]:
    with LOCK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("trying to get global lock - waiting...")
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Died("can't acquire lock '/var/run/vzdump.lock' - got timeout") from None
                    time.sleep(0.2)
        LOCK.with_suffix(".pid").write_text(f"{os.getpid()}\n")
        yield


@contextmanager
def guest_lock(vmid: int, kind: str) -> Iterator[None]:
    path = conf.path_of(vmid, kind, node_name())
    with conf.held(vmid, kind):
        found = conf.read(vmid, kind, node_name())
        conf.check_lock(found, kind)
        found.values["lock"] = "backup"
        conf.write(path, found.text)
    try:
        yield
    finally:
        with conf.held(vmid, kind):
            found = conf.read(vmid, kind, node_name())
            found.values.pop("lock", None)
            conf.write(path, found.text)


# --- virtual machines ---


def dump_vm(vmid: int, given: Words) -> None:
    found = conf.read(vmid, "qemu", node_name())
    disks = conf.backed_up(found)
    with (
        tempfile.TemporaryDirectory(dir=given.get("dumpdir"), prefix=f"vzdump-qemu-{vmid}-") as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        if wire.pid(vmid):
            _say("status = running")
            _say(f"backup mode: {given.get('mode', 'snapshot')}")
            _copy_running(vmid, disks, folder, frozen=_freezes(found))
        else:
            _say("status = stopped")
            for key, item in disks.items():
                path = storage.path_of(item["file"], node_name())
                form = item.get("format") or storage.volume_format(item["file"])
                _run("qemu-img", "convert", "-f", form, "-O", "raw", str(path), str(folder / key))
        images = []
        for key in disks:
            file = stack.enter_context((folder / key).open("rb"))
            images.append(vma.Image(f"drive-{key}", os.fstat(file.fileno()).st_size, _reader(file.fileno())))
        _say("creating vzdump archive to stdout")
        vma.write(sys.stdout.buffer, _configs(vmid, found, disks), images, seed=vmid)


def _reader(descriptor: int):  # type: ignore[no-untyped-def]
    return lambda offset, length: os.pread(descriptor, length, offset)


def _configs(vmid: int, found: conf.Conf, disks: dict[str, dict[str, str]]) -> dict[str, bytes]:
    """The current section, without what belongs to this host's moment, and the hints qmrestore needs."""
    dropped = {"lock", "parent"} | {key for key in found.values if key.startswith("unused")}
    text = found.comment + "".join(
        f"{key}: {value}\n" for key, value in sorted(found.values.items()) if key not in dropped
    )
    for key, item in disks.items():
        if not item["file"].startswith("/"):
            name, volume = storage.split_volid(item["file"])
            text += f"#qmdump#map:{key}:drive-{key}:{name}:{storage.volume_format(volume)}:\n"
    configs = {"qemu-server.conf": text.encode()}
    firewall = conf.ETC / "firewall" / f"{vmid}.fw"
    if firewall.exists():
        configs["qemu-server.fw"] = firewall.read_bytes()
    return configs


def _freezes(found: conf.Conf) -> bool:
    agent = conf.properties(found.values.get("agent", "0"), "enabled")
    return (
        agent.get("enabled") == "1" and agent.get("freeze-fs-on-backup", agent.get("freeze-fs", "1")) != "0"
    )


def _copy_running(vmid: int, disks: dict[str, dict[str, str]], folder: Path, *, frozen: bool) -> None:
    """All disks as they are at one moment: a QEMU backup job per disk, all begun by one transaction."""
    with wire.qmp(vmid) as qmp:
        nodes = _nodes(qmp, list(disks))
        targets = {key: f"vzdump-target{number}" for number, key in enumerate(disks)}
        for key, (_, size) in nodes.items():
            with (folder / key).open("wb") as file:
                file.truncate(size)
            backing = {"driver": "file", "filename": str(folder / key)}
            qmp("blockdev-add", **{"driver": "raw", "node-name": targets[key], "file": backing})
    jobs = {f"vzdump-{key}": key for key in disks}
    actions = [
        {"type": "blockdev-backup", "data": {
            "job-id": job, "device": nodes[key][0], "target": targets[key], "sync": "full", "auto-dismiss": False}}
        for job, key in jobs.items()
    ]  # fmt: skip
    try:
        with _frozen(vmid) if frozen else nullcontext(), wire.qmp(vmid) as qmp:
            qmp("transaction", actions=actions)
        _await_jobs(vmid, set(jobs))
    finally:
        with wire.qmp(vmid) as qmp:
            left = {job["id"] for job in qmp("query-jobs")} & set(jobs)
            for job in left:
                qmp("job-cancel", id=job)
        with suppress(Died):
            _await_jobs(vmid, left)
        with wire.qmp(vmid) as qmp:
            for name in targets.values():
                qmp("blockdev-del", **{"node-name": name})


@contextmanager
def _frozen(vmid: int) -> Iterator[None]:
    """A guest that cannot be frozen is copied all the same, as Proxmox does it."""
    _ask_agent(vmid, "fs-freeze")
    try:
        yield
    finally:
        _ask_agent(vmid, "fs-thaw")


def _ask_agent(vmid: int, command: str) -> None:
    _say(f"issuing guest-agent '{command}' command")
    try:
        wire.agent(wire.RUN / f"{vmid}.qga", vmid, f"guest-{command.replace('fs-', 'fsfreeze-')}")
    except Died as death:
        print(f"ERROR: {death}", file=sys.stderr, flush=True)


def _nodes(qmp: wire.Qmp, keys: list[str]) -> dict[str, tuple[str, int]]:
    """Key → (the node below the throttle, bytes)."""
    found = {}
    every = {item["node-name"]: item for item in qmp("query-named-block-nodes", flat=True)}
    for item in qmp("query-block"):
        inserted = item.get("inserted")
        qdev = item.get("qdev", "").removesuffix("/virtio-backend").rpartition("/")[2]
        for key in keys:
            if inserted and (item.get("device") == f"drive-{key}" or qdev == key):
                node = inserted["node-name"]
                while every.get(node, inserted)["drv"] == "throttle":
                    node = _child(qmp, node)
                found[key] = node, inserted["image"]["virtual-size"]
    if set(found) != set(keys):
        raise Died(f"no drive {sorted(set(keys) - set(found))} in QEMU")
    return {key: found[key] for key in keys}


def _child(qmp: wire.Qmp, node: str) -> str:
    graph = qmp("x-debug-query-block-graph")
    names = {item["id"]: item["name"] for item in graph["nodes"]}
    return next(
        names[edge["child"]]
        for edge in graph["edges"]
        if names[edge["parent"]] == node and edge["name"] == "file"
    )


def _await_jobs(vmid: int, names: set[str]) -> None:
    """One short session after the other: others want the monitor too."""
    problem = ""
    while names:
        with wire.qmp(vmid) as qmp:
            for job in qmp("query-jobs"):
                if job["id"] in names and job["status"] == "concluded":
                    problem = problem or job.get("error", "")
                    qmp("job-dismiss", id=job["id"])
                    names.discard(job["id"])
        time.sleep(0.05)
    if problem:
        raise Died(f"job failed with err -5 - {problem}")


# --- containers ---


def dump_ct(vmid: int, given: Words) -> None:
    """A tar with ./etc/vzdump/pct.conf first, then the root file system and the mount points with backup=1."""
    found = conf.read(vmid, "lxc", node_name())
    values = {key: value for key, value in found.values.items() if key not in {"lock", "parent"}}
    root = storage.path_of(conf.mounts(found)["rootfs"]["volume"], node_name())
    with tempfile.TemporaryDirectory(dir=given.get("dumpdir"), prefix=f"vzdump-lxc-{vmid}-") as name:
        folder = Path(name)
        (folder / "etc/vzdump").mkdir(parents=True)
        (folder / "etc/vzdump/pct.conf").write_text(conf.Conf(values, found.comment).text)
        firewall = conf.ETC / "firewall" / f"{vmid}.fw"
        extra = ["./etc/vzdump/pct.conf"]
        if firewall.exists():
            shutil.copy(firewall, folder / "etc/vzdump/pct.fw")
            extra.append("./etc/vzdump/pct.fw")
        included = []
        for key, item in conf.mounts(found).items():
            if key != "rootfs" and item.get("backup") == "1" and not item["volume"].startswith("/"):
                included.append((item["mp"].strip("/"), storage.path_of(item["volume"], node_name())))
        _say("creating vzdump archive to stdout")
        sys.stdout.flush()
        common = ["-cpf", "-", "--totals", "--one-file-system", "--sparse", "--numeric-owner", "--acls", "--xattrs",
                  "--xattrs-include=user.*", "--xattrs-include=security.capability"]  # fmt: skip
        moves = [f"--transform=s,^\\./,./{place}/," for place, _ in included]
        if included:
            _joined(folder, extra, root, included, common, moves)
        else:
            left_out = ["--exclude=lost+found", "--anchored", "--exclude=./tmp/?*", "--exclude=./var/tmp/?*"]
            places = ["--directory", str(folder), *extra, "--directory", str(root), "--no-anchored"]
            _run("tar", *common, *places, *left_out, "./")


def _joined(
    folder: Path,
    extra: list[str],
    root: Path,
    included: list[tuple[str, Path]],
    common: list[str],
    moves: list[str],
) -> None:
    """Volumes are folders here, not mounts: each is a tar of its own, cut before its end-of-archive blocks."""
    parts = [["--directory", str(folder), *extra], ["--directory", str(root), "./"]]
    parts += [[move, "--directory", str(path), "./"] for move, (_, path) in zip(moves, included, strict=True)]
    for number, part in enumerate(parts):
        done = subprocess.run(
            ["tar", *common[:2], "--blocking-factor=1", *common[3:], *part], capture_output=True, check=False
        )
        if done.returncode:
            raise Died(f"command 'tar' failed: {done.stderr.decode()}")
        sys.stdout.buffer.write(done.stdout if number == len(parts) - 1 else done.stdout[:-1024])
    sys.stdout.buffer.flush()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False)
    if done.stderr:
        print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        raise Died(f"command '{' '.join(argv)}' failed: exit code {done.returncode}")

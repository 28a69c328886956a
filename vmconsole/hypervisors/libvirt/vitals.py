"""How a host and some of its guests are doing right now, in one remote command that is cheap for the host."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.inventory import load
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.model.vitals import Vitals, WriteCounters
from vmconsole.remote.machine import Machine

# One virsh per guest: of several at once, one that was removed would cost the answer about all of them.
# --nowait: a guest whose monitor is busy is left out, not waited for.
_LOOK = r"""
uri=$1; shift
part loadavg cat /proc/loadavg
part nproc nproc
part cpu cat /proc/pressure/cpu
part io cat /proc/pressure/io
part memory cat /proc/pressure/memory
for uuid in "$@"; do
    part "$uuid" timeout 3 virsh -c "$uri" domstats --block --nowait "$uuid"
done
part end true
"""
TIMEOUT = 10.0
_COUNTER = re.compile(r"^  block\.\d{1,4}\.(wr|fl)\.(reqs|times)=(\d{1,20})$", re.MULTILINE)


def take_vitals(machine: Machine, uri: str, uuids: Sequence[str]) -> Vitals:
    """Raises HostError when the host does not answer in time, ProtocolError when it answers nonsense."""
    answers = collect(machine, _LOOK, [uri, *uuids], timeout=TIMEOUT)
    if "end" not in answers:
        raise ProtocolError(f"{machine.name} stopped in the middle of answering.", subject=machine.name)
    found = {uuid: writes(answers.get(uuid, MISSING)) for uuid in uuids}
    return Vitals(load(answers), {uuid: counters for uuid, counters in found.items() if counters})


def writes(section: Section) -> WriteCounters | None:
    """From `virsh domstats --block`, of all its disks together; None when it tells nothing of them.

    Times are nanoseconds. A guest that waits for its writes to be safe waits for flushes: they count.
    """
    sums = {"reqs": 0, "times": 0}
    counters = _COUNTER.findall(section.text) if section.ok else []
    for _, what, value in counters:
        sums[what] += int(value)
    return WriteCounters(sums["reqs"], sums["times"] / 1e9) if counters else None

"""Exporting a running guest through a pull-mode backup job of libvirt.

All disks are in one job, so they are cut at the same instant; each is read over NBD from a unix
socket in the guest's own folder. The job is held by guard.sh on the host, which ends it when we
vanish. Order: journal, guard, freeze, cut, thaw, read, end the job *while the NBD clients are still
connected* (QEMU 7.2 can crash on a client that leaves first), archive, drop the old checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vmconsole.disks import extents as maps
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.errors import BackupFailed, HostError, NotPermitted, ProtocolError, VmconsoleError
from vmconsole.events import StepFinished, StepStarted, Warned, step
from vmconsole.hypervisors.libvirt import jobxml, names
from vmconsole.hypervisors.libvirt.checkpoints import drop_checkpoints, read_checkpoint
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, PlanFacts, point_facts
from vmconsole.hypervisors.libvirt.guard import CutReport, Guard, Watched
from vmconsole.hypervisors.libvirt.members import collect_members
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan
from vmconsole.model.extent import Content, Extent
from vmconsole.model.guest import GuestState, Tracking
from vmconsole.model.point import Consistency, Mode
from vmconsole.remote.machine import Machine

JOURNAL_KIND = "libvirt-export"
FREEZE_KIND = "libvirt-freeze-check"
ALLOCATION = "base:allocation"

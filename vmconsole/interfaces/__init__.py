"""What the core needs from outside, in one place.

`runs` works on these alone; adapters implement them; `wiring` puts the two together. All calls
block; everything long takes a Context, whose cancel token they poll and to whose sink they speak.
Errors are those of errors.py, whatever the library underneath raises.
"""

from __future__ import annotations

from vmconsole.interfaces.channels import Channel as Channel
from vmconsole.interfaces.channels import Metrics as Metrics
from vmconsole.interfaces.channels import Pinger as Pinger
from vmconsole.interfaces.context import UNHURRIED as UNHURRIED
from vmconsole.interfaces.context import Context as Context
from vmconsole.interfaces.context import Pace as Pace
from vmconsole.interfaces.context import Together as Together
from vmconsole.interfaces.context import Unhurried as Unhurried
from vmconsole.interfaces.files import GuestFiles as GuestFiles
from vmconsole.interfaces.hypervisors import DiskExport as DiskExport
from vmconsole.interfaces.hypervisors import DiskTarget as DiskTarget
from vmconsole.interfaces.hypervisors import Export as Export
from vmconsole.interfaces.hypervisors import Feed as Feed
from vmconsole.interfaces.hypervisors import GuestTarget as GuestTarget
from vmconsole.interfaces.hypervisors import Hypervisor as Hypervisor
from vmconsole.interfaces.memory import AlertStore as AlertStore
from vmconsole.interfaces.memory import History as History
from vmconsole.interfaces.memory import Ledger as Ledger
from vmconsole.interfaces.memory import RunStore as RunStore
from vmconsole.interfaces.repositories import ArchiveWriter as ArchiveWriter
from vmconsole.interfaces.repositories import DiskReader as DiskReader
from vmconsole.interfaces.repositories import DiskWriter as DiskWriter
from vmconsole.interfaces.repositories import Repository as Repository
from vmconsole.interfaces.repositories import RepositoryReader as RepositoryReader
from vmconsole.interfaces.repositories import RepositoryWriter as RepositoryWriter
from vmconsole.interfaces.repositories import Sinks as Sinks
from vmconsole.interfaces.repositories import StreamWriter as StreamWriter
from vmconsole.model.cancel import Cancel as Cancel
from vmconsole.model.clock import Clock as Clock
from vmconsole.model.export import Cut as Cut
from vmconsole.model.export import DiskPlan as DiskPlan
from vmconsole.model.export import ExportOptions as ExportOptions
from vmconsole.model.export import ExportPlan as ExportPlan
from vmconsole.model.export import Fed as Fed
from vmconsole.model.export import GuestRestore as GuestRestore
from vmconsole.model.host_key import HostKey as HostKey
from vmconsole.model.repository import RepositoryInfo as RepositoryInfo
from vmconsole.model.run import Journal as Journal

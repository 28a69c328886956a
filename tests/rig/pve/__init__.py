"""A Proxmox cluster without Proxmox, for tests: real nodes, real QEMU in Proxmox's layouts, a real API.

A test in this folder asks for the fixtures of conftest.py:

    def test_something(pve, make_vm, pve_world):
        vm = make_vm([PveDiskSpec("scsi0", fs="ext4"), PveDiskSpec("virtio1", format="raw", storage="fast")])
        vm.pattern("virtio1", 0, MIB, seed=1)
        made = pve_world.backup(vm)                     # the command line, against [hosts.pve]
        pve.migrate(vm, "pve2", live=False)
        with pve.locked(vm.vmid): ...                   # and offline, no_quorum, storage_gone, token;
        with pve.one.fault("^qm unlock", "no"): ...     # of a node: fault, vzdump_lock, config_flock, small
        assert vm.leftovers() == [] and pve.one.leftovers() == []

cluster.py   the cluster: guests, migration, faults; PveDiskSpec. node.py: one node, its namespaces and sshd
plane.py     the API: fakepve, fed from the tree of /etc/pve and from what really runs
tools/       pvesh, qm, pvesm, pct, vzdump, qmrestore as they are on a node; perl/: PVE::Storage
guest.py     a VM, inside and outside; a container, which is files only
access.py    the product's room over SSH to the cluster. world.py: a backup server with the command line
qemu.py      starts and stops a machine; `qemu10()` finds or unpacks the second QEMU
proxy.py     stands before QEMU's monitor and adds what Proxmox's patches add to it
ways.py      a running machine of every kind that is read another way, with a world
victim.py    one of them that writes all the time, and what must be true once a backup of it has died
qmeventd.py  a stand-in for the daemon that ends a machine's process after the guest powered off
bench.py     one paused machine without a cluster, for many backups in little time

What differs from the real thing: all storages are folders (a container's volume too), there is no corosync
(a node's state is what the test says), nothing runs in containers, vzdump copies the disks before it sends
them, and `qm migrate` does not exist: use `PveCluster.migrate`.
"""

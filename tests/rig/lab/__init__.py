"""Real libvirt hosts with tiny real guests, for tests: how to use them.

    pytest tests/rig                    needs root and Debian's packages; `lab.gate` names missing ones

A test asks for the fixtures of tests/rig/conftest.py:

    def test_something(lab, make_guest):
        guest = make_guest(disks=[DiskSpec("vda", fs="ext4", content={"a.txt": b"hello"}),
                                  DiskSpec("vdb", size=256 * MIB, format="raw")])
        with ssh_access(lab.host, lab.folder("ssh")) as access:
            ... vmconsole's code with access.machine or access.settings ...
        assert leftovers(guest) == []

* `lab` lives as long as the session; `lab.host` and `lab.second_host` are two libvirt hosts, apart from each
  other, from this machine's own libvirt and from other sessions (`lab.host` the module says how).
  Files that a host or QEMU shall reach belong into `lab.folder(NAME)`: a host has a /tmp of its own.
* `make_guest` removes its guests after the test; `with lab.guest(…) as guest` is for fixtures that share one.
  A boot takes some 3 s: share a guest where tests leave it as they found it.
* In the guest: `guest.sh` (serial line: works with a hung agent, and frozen), `guest.exec` (by the agent),
  `pattern`, `zero`, `write_file`, `lockstep_start`, `frozen`, `agent_hang`, `agent_program("fake", …)`.
* From outside: `guest.virsh`, `state`, `job`, `checkpoints`, `kill_qemu`, `raw_copy`; `leftovers(guest)`;
  `host.tmpfs`, `host.kill_libvirtd`, `host.run`; `access.sshd.cut` and `.freeze` for the connection.
* Were all disks cut at one instant? `check_lockstep` (lab/lockstep.py) on raw images of them.

Nothing sleeps for a length of time: `wait_for` (lab/waiting.py) awaits a condition.
"""

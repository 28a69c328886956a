"""Disk images served by qemu-nbd on a host: what every hypervisor reads what is off with."""

"""A Proxmox node's virtual machines, without Proxmox: real QEMU in exactly Proxmox's layouts.

qemu.py      starts and stops a machine; `qemu10()` finds or unpacks the second QEMU
proxy.py     stands before QEMU's monitor and adds what Proxmox's patches add to it
qmeventd.py  a stand-in for the daemon that ends a machine's process after the guest powered off
"""

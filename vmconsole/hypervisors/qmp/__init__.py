"""QEMU's machine protocol, shared by whatever talks to a QEMU process directly."""

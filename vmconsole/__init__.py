"""Off-host backups of virtual machines, over SSH, into Borg."""

__version__ = "0.1.0"

"""Writes and reads Borg archives through the modules of the pinned borgbackup."""

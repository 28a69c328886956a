"""Partitions, volume managers and file systems inside a backed-up disk, read-only.

A guest's disk is hostile input, so it is parsed in a process of its own (worker.py, started by client.py) that
has little memory and time, opens no files, and gets its bytes from us.
"""

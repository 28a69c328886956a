"""Borg: admin commands through its command line; engine/ writes and reads archives."""

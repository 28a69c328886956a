"""Reads, checks, explains and edits the configuration file."""

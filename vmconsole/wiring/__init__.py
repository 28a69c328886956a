"""Builds the real objects from the configuration; the only importer of adapters."""

"""The three steps of a restore: what, where, review."""

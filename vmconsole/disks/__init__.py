"""Block level: extents, chunk alignment, sparse files."""

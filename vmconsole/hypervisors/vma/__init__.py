"""Proxmox's VMA v1 stream, which vzdump writes and qmrestore reads: the format alone, on streams."""

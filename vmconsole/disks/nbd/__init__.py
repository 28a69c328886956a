"""The NBD client and server."""

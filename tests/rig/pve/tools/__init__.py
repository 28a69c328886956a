"""`pvesh qm pvesm pct vzdump qmrestore` of a lab node: each a small program with the words, exit codes and
files of Proxmox's own, run by the tests' Python inside the node's namespaces (run.py)."""

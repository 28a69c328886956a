"""A small Proxmox cluster for the demo: two nodes, each with its own SSH server, and what runs on them."""

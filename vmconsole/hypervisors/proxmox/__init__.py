"""Proxmox VE: pvesh and QMP over SSH, so that nothing has to be installed on a node."""

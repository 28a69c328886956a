"""Plain KVM hosts through virsh over SSH: inventory, pull-mode export, restore."""

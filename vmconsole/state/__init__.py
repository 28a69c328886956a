"""Our own memory: runs, events, the cleanup journal, restore points and inventory seen."""

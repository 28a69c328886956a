"""Plain data: guests, disks, extents, restore points, runs, groups."""

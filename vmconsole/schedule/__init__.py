"""When: what is due, missed and overdue, limits, the order of work."""

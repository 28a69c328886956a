"""When: calendar, due, missed and overdue, limits, the order of work."""

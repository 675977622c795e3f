"""Real nodes under faults of our own code, of their disks and of their clocks."""

"""What outlives a process: dead letters, positions, black boxes."""

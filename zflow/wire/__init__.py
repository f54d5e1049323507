"""What travels between processes, and nothing of how it travels."""

"""Spawns, watches and restarts the replicas of one machine, and tells the coordinator of them."""

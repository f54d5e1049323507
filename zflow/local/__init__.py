"""A whole topology on one machine: one foreground process, every replica its child."""

"""What `scripts/bench` runs beside zflow: each file is a program in the environment `.peers`."""

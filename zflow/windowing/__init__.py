"""Windows and joins as durable stages: what runs the functions under `@window` and `@join`."""

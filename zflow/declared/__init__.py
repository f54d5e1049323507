"""A topology as frozen data, and what can be told from it alone."""

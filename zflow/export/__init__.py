"""A declared topology written in the languages of other tools."""

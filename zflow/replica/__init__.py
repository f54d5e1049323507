"""One process of one stage."""

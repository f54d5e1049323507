"""The chaos campaigns, one file per kind of fault; `scripts/chaos` runs them."""

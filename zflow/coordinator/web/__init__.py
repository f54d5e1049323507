"""The coordinator's HTTP: metrics, health, the state as JSON, the page."""

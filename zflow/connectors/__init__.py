"""Sinks to derive from, and the contract that any sink keeps."""

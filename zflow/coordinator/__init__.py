"""Membership and configuration of one run; never on the path of data."""

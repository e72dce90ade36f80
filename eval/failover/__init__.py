"""Fault scenarios against any gateway, with upstreams that really fail."""

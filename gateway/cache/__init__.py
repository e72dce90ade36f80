"""Routing choices in Redis, or in the embedded Valkey: one code path for both."""

"""Measuring: routers, mappings, gateways. Nothing of the product imports it."""

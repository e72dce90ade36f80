"""Edits of the experts while the gateway serves."""

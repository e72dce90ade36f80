"""The HTTP service: one OpenAI-compatible endpoint in front of a composition of experts."""

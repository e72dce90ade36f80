"""The wire formats of clients, in terms of chat completions."""

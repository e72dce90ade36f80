"""What the router that ships is trained on."""

"""Child processes of a gateway: local experts, the embedded cache, the workers."""

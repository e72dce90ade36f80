"""What a gateway costs, beside a direct call, a bare relay and rivals."""

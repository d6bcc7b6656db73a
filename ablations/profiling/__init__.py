"""What a network costs: params, MACs, bytes, seconds."""

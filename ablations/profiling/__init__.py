"""The costs of a network: params, MACs, bytes, seconds."""

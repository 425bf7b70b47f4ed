"""The documents show what really happens."""

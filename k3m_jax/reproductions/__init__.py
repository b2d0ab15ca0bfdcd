"""Other implementations, reproduced."""

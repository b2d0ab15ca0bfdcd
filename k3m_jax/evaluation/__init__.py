"""Held-out metrics and the floors that they are read against."""

"""Held-out metrics, and the baselines that they are compared with."""

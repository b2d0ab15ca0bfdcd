"""A run from its settings to its last step, and what is measured of it."""

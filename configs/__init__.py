"""Configuration files: each `get_config()` is a short difference from the defaults."""

"""Entry points: flags and wiring."""

"""The embedded catalogue: a made-up shop with drawn pictures."""

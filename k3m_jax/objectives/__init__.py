"""Array-to-array losses: each returns (weighted sum, weight), divided once by its caller."""

"""Models to compare K3M with: of the same layers, pooled and trained the same way."""

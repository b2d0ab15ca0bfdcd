"""The authors' PyTorch release, to the digit."""

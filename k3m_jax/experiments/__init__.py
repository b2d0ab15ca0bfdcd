"""Compositions of training and evaluation: probes of frozen embeddings."""

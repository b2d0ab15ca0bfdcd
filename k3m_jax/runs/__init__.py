"""Whole runs: training, fine-tuning, and their measurement."""

"""Grids of experiments and their report."""

"""State, step, loop, checkpoints and metrics of a run."""

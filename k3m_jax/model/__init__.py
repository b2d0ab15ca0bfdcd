"""The encoders, the interactor, the fusion and the structure aggregation, as pure functions."""

"""How fast this library is on a machine: steps and input."""

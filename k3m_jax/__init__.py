"""K3M in JAX: pretrained product representations from pictures, titles and triples."""

__version__ = "0.1.0"

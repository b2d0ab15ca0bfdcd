"""K3M in JAX: pretrained product representations from pictures, titles and triples."""

"""K3M in JAX: pretraining of product representations from pictures, titles and knowledge triples."""

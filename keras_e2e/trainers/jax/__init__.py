"""The training step on JAX."""
